"""The tags of a registered version: names, labels, sections and the pages that show them."""

from dataclasses import dataclass
from enum import Flag, auto

from crossfold.evaluation import metrics
from crossfold.evaluation.metrics import Metric


class Place(Flag):
    """A page that shows some of the tags; `crossfold lineage` shows all of them."""

    REPORT = auto()
    CARD = auto()  # the model card
    REPRODUCE = auto()  # `crossfold reproduce`: the environment that results depend on


BOTH = Place.REPORT | Place.CARD
ALL = BOTH | Place.REPRODUCE
NOWHERE = Place(0)


@dataclass(frozen=True)
class Tag:
    """A tag of a registered version; `section` is its heading in `crossfold lineage`."""

    name: str
    label: str
    section: str
    places: Place = NOWHERE
    is_json: bool = False


def tags() -> tuple[Tag, ...]:
    """List all known tags, grouped by section, in the order of every table."""
    return (
        Tag("architecture", "architecture", "Scores"),
        Tag("backbone", "backbone, of several", "Scores"),
        Tag("candidate", "candidate", "Scores"),
        Tag("num_epochs", "epochs", "Scores"),
        *(
            Tag(f"test_{metric.name}", f"test, {metric.label}", "Scores")
            for metric in metrics.METRICS
        ),
        *(tag for metric in metrics.fold_metrics() for tag in _cross_validation_tags(metric)),
        *_TAGS,
    )


def _cross_validation_tags(metric: Metric) -> tuple[Tag, Tag]:
    label = f"cross-validation, {metric.label}"
    return (
        Tag(f"cv_{metric.name}", label, "Scores"),
        Tag(f"cv_{metric.name}_std", f"{label}, standard deviation", "Scores"),
    )


_TAGS = (
    Tag("gate", "gate", "Gate"),
    Tag("gate_verdict", "verdict of the gate", "Gate"),
    Tag("gate_reason", "reason of the gate", "Gate"),
    Tag("gate_comparison", "comparison with the champion", "Gate", is_json=True),
    Tag("num_judged_before", "other versions judged on this test split before", "Gate"),
    Tag("promotions", "promotions by hand", "By hand", is_json=True),
    Tag("rolled_back", "taken back", "By hand", is_json=True),
    Tag("git_commit", "git commit", "Code", BOTH),
    Tag("git_dirty", "uncommitted changes", "Code", Place.REPORT),
    Tag("image_data", "image of fetch_data and fetch_weights", "Code", Place.REPORT),
    Tag("image_train", "image of all other steps", "Code", BOTH),
    Tag("data_hash", "data (DVC’s hash)", "Data", BOTH),
    Tag("split_hash", "test split (SHA-256)", "Data", BOTH),
    Tag("num_train_images", "training images", "Data"),
    Tag("num_test_images", "test images", "Data"),
    Tag("seed_split", "seed of the splits", "Data", BOTH),
    Tag("seed_training", "seed of the training", "Data", BOTH),
    Tag("models_hash", "initial weights (DVC’s hash)", "Weights", BOTH),
    Tag("weights_hash", "model (SHA-256)", "Weights", BOTH),
    Tag("training_images", "file of the training images’ hashes", "Weights"),
    Tag("precision", "number format of the frozen part", "Precision", BOTH),
    Tag("precision_reason", "reason for it", "Precision", BOTH),
    Tag("int8_difference", "macro F1 of int8 minus float32", "Precision", BOTH),
    Tag("exported_by", "exporter", "Export"),
    Tag("export_num_compared", "test images compared between OpenVINO and torch", "Export", BOTH),
    Tag("export_max_difference", "largest difference of a probability in these", "Export", BOTH),
    Tag("export_num_different", "images of these that the two predict differently", "Export", BOTH),
    Tag("runner", "runner", "Run", BOTH),
    Tag("started", "started", "Run", BOTH),
    Tag("pipeline_run", "pipeline run", "Run", BOTH),
    Tag("mlflow_parent_run", "run in MLflow", "Run", Place.REPORT),
    Tag("device", "device", "Computed with"),
    Tag("num_threads", "threads of the steps that run alone", "Computed with", ALL),
    Tag("num_threads_folds", "threads of a fold", "Computed with", ALL),
    Tag("processor_kernels", "processor kernels", "Computed with", ALL),
    Tag("matrix_units", "matrix units", "Computed with", Place.REPORT | Place.REPRODUCE),
    Tag("torch", "torch build", "Computed with", ALL),
    Tag("openvino", "OpenVINO", "Computed with", Place.REPORT),
    Tag("libraries", "versions of the libraries", "Computed with", Place.REPORT, is_json=True),
    Tag("class_weights", "weights of the classes in the loss", "Settings", BOTH),
    Tag("averaged_views", "views that a prediction averages over", "Settings", BOTH),
    Tag("settings", "settings (params.yaml)", "Settings", Place.REPORT, is_json=True),
    Tag("files_sha256", "files (SHA-256)", "Files", is_json=True),
)
