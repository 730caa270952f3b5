"""Collect and read the tags of a version: its origin, the gate's decision, promotions by hand."""

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion

from crossfold.data.examples import TEST, TRAIN, Examples
from crossfold.records import (
    ChampionComparison,
    ChosenPrecision,
    ClassWeights,
    Evaluation,
    Leaderboard,
    Promotion,
    TakenBack,
    Verdict,
)
from crossfold.tracking import run, store

from .gate import Decision

PROMOTIONS = "promotions"  # by hand, oldest first, as a JSON list
ROLLED_BACK = "rolled_back"  # who took the version back, when and why, as JSON

# Libraries that may change a result, or help to identify the others. Not every image has DVC.
_LIBRARIES = (
    "dvc",
    "kfp",
    "numpy",
    "openvino",
    "pandas",
    "pillow",
    "pyarrow",
    "safetensors",
    "scikit-learn",
    "scipy",
    "torch",
    "torchvision",
)
# Keys of determinism.describe. Platforms may add other keys to an artifact's metadata.
_COMPUTED = ("device", "num_threads", "processor_kernels", "matrix_units", "torch", "openvino")


def of_model(board: Leaderboard, evaluated: Evaluation, table: Examples) -> dict[str, str]:
    """Collect the model's tags: hashes, numbers of images, export, candidate and scores."""
    scores = board.chosen.summary | evaluated.summary
    return {
        "weights_hash": evaluated.weights_hash,
        "data_hash": evaluated.data_hash,
        "split_hash": evaluated.split_hash,
        "num_train_images": str(table.count(TRAIN)),
        "num_test_images": str(table.count(TEST)),
        "exported_by": evaluated.export.by,
        "export_num_compared": str(evaluated.export.num_compared),
        "export_max_difference": str(evaluated.export.max_difference),
        "export_num_different": str(evaluated.export.num_different),
        **_precision(board.precision),
        "architecture": board.architecture,
        **({"backbone": board.chosen.backbone.name} if board.compares_backbones else {}),
        "candidate": board.chosen.candidate.name,
        **({"num_epochs": str(board.num_epochs)} if board.num_epochs else {}),
        **{name: str(value) for name, value in scores.items()},
    }


def _precision(chosen: ChosenPrecision | None) -> dict[str, str]:
    if chosen is None:
        return {}
    tags = {"precision": chosen.precision, "precision_reason": chosen.reason}
    return tags | ({"int8_difference": chosen.comparison.summary} if chosen.comparison else {})


def of_computing(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Collect the tags of the training environment from the model artifact's metadata."""
    return {name: str(metadata[name]) for name in _COMPUTED if name in metadata}


def of_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """Collect seeds, threads of the folds, class weights and averaged views, as tags."""
    wanted = {
        "seed_split": ("data", "seed"),
        "seed_training": ("training", "seed"),
        "num_threads_folds": ("threads", "folds"),
    }
    tags = {
        tag: str(settings[section][key])
        for tag, (section, key) in wanted.items()
        if key in settings.get(section, {})
    }
    weighting = settings.get("training", {}).get("class_weights", ClassWeights.NONE)
    if weighting != ClassWeights.NONE:
        tags["class_weights"] = str(weighting)
    augmentation = settings.get("augmentation", {})
    if augmentation.get("test_time"):
        tags["averaged_views"] = ", ".join(augmentation["views"])
    return tags


def of_run(parent: run.Run) -> dict[str, str]:
    """Collect the run's tags: run ids, start time, and the library versions of this process."""
    started = datetime.fromtimestamp(parent.started / 1000, UTC)
    return {
        "mlflow_parent_run": parent.id,
        "pipeline_run": store.pipeline_run_id(),
        "started": started.isoformat(timespec="seconds"),
        "libraries": json.dumps(_libraries()),
    }


def of_decision(decision: Decision, num_judged_before: int) -> dict[str, str]:
    """Collect the gate's tags. Set them in this order: `gate_run` shows that all are set."""
    compared = decision.comparison
    return {
        "gate": decision.word,
        "gate_verdict": decision.verdict.value,
        "gate_reason": decision.reason,
        "gate_comparison": compared.to_json() if compared else "null",
        "num_judged_before": str(num_judged_before),
        "gate_run": store.pipeline_run_id(),
    }


def recorded_decision(version: ModelVersion) -> Decision:
    """Read the gate's last decision on a version."""
    return Decision(
        Verdict(version.tags["gate_verdict"]),
        version.tags["gate_reason"],
        recorded_comparison(version),
    )


def recorded_comparison(version: ModelVersion) -> ChampionComparison | None:
    """Read the gate's last comparison of a version with a champion; None without a comparison."""
    text = version.tags.get("gate_comparison", "null")
    return None if text == "null" else ChampionComparison.model_validate_json(text)


def recorded_promotions(version: ModelVersion) -> list[Promotion]:
    """Read the promotions of a version by hand, oldest first."""
    entries = json.loads(version.tags.get(PROMOTIONS, "[]"))
    return [Promotion.model_validate(entry) for entry in entries]


def recorded_rollback(version: ModelVersion) -> TakenBack | None:
    """Read who took a version back by a rollback; None if nobody did."""
    text = version.tags.get(ROLLED_BACK)
    return None if text is None else TakenBack.model_validate_json(text)


def _libraries() -> dict[str, str]:
    versions = {"python": platform.python_version(), "mlflow": mlflow.__version__}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
