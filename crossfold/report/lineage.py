"""Where a registered model comes from, as the report's page shows it."""

import json
from collections.abc import Mapping

_ROWS = {
    "git_commit": "git commit",
    "git_dirty": "uncommitted changes",
    "data_hash": "data (DVC’s hash)",
    "models_hash": "initial weights (DVC’s hash)",
    "weights_hash": "model (SHA-256)",
    "split_hash": "test split (SHA-256)",
    "image_data": "image of fetch_data",
    "image_train": "image of the other steps",
    "runner": "runner",
    "pipeline_run": "pipeline run",
    "mlflow_parent_run": "run in MLflow",
    "started": "started",
    "seed_split": "seed of the splits",
    "seed_training": "seed of the training",
    "num_threads": "threads",
    "num_threads_folds": "threads of a fold",
    "processor_kernels": "processor kernels",
    "matrix_units": "matrix units",
    "torch": "torch",
    "openvino": "OpenVINO",
    "export_max_difference": "largest difference of a probability between OpenVINO and torch",
}
_DETAILS = {"settings": "Settings (params.yaml)", "libraries": "Versions of the libraries"}
_DIRTY = {"true": "yes: the commit alone is not what ran", "false": "none"}


def rows(lineage: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return names and values of what is known, in the order of the page."""
    shown = {
        "git_commit": "none: not in git",
        **lineage,
        "git_dirty": _DIRTY.get(lineage.get("git_dirty", ""), ""),
    }
    return [(name, shown[key]) for key, name in _ROWS.items() if shown.get(key)]


def details(lineage: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what is long: names and JSON, laid out."""
    return [
        (name, json.dumps(json.loads(lineage[key]), indent=2, sort_keys=True, ensure_ascii=False))
        for key, name in _DETAILS.items()
        if lineage.get(key)
    ]
