"""Build the pipeline's arguments from params.yaml and the DVC pointers."""

import json
from pathlib import Path
from typing import Any

import yaml

from crossfold.data import dvc
from crossfold.settings import Settings


def arguments(settings: Settings, root: Path, lineage: dict[str, Any]) -> dict[str, Any]:
    """Build the pipeline's arguments from settings, the DVC pointers in `root` and a lineage."""
    return {
        "data_pointer": _pointer(root, "data"),
        "models_pointer": _pointer(root, "models"),
        "remote": settings.data.remote,
        "test_fraction": settings.data.test_fraction,
        "folds": list(range(settings.data.num_folds)),
        "split_seed": settings.data.seed,
        "max_skipped_fraction": settings.data.max_skipped_fraction,
        "image_size": settings.data.image_size,
        "architecture": settings.model.architecture,
        "weights": settings.model.weights,
        "precision": settings.model.precision,
        "candidates": [
            candidate.model_dump(exclude_none=True) for candidate in settings.candidates
        ],
        "cuts": settings.cuts,
        "num_epochs": settings.training.num_epochs,
        "batch_size": settings.training.batch_size,
        "training_seed": settings.training.seed,
        "threads_alone": settings.threads.alone,
        "threads_folds": settings.threads.folds,
        "model_name": settings.tracking.model_name,
        "min_macro_f1": settings.gate.min_macro_f1,
        "margin": settings.gate.margin,
        "lineage": lineage,
    }


def _pointer(root: Path, name: str) -> str:
    """Read a DVC pointer as one line: kfp cuts off a default at a line break."""
    return json.dumps(yaml.safe_load(dvc.read_pointer(root, name)), sort_keys=True)
