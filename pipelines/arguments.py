"""Build the pipeline's arguments from params.yaml and the DVC pointers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from crossfold.data import dvc
from crossfold.settings import PreprocessingSettings, Settings

# A setting is a parameter of the graph under its own name, or under this one if another section
# has a setting of the same name, or if the name is unclear without its section.
PARAMETERS = {
    "data.seed": "split_seed",
    "training.seed": "training_seed",
    "threads.alone": "threads_alone",
    "threads.folds": "threads_folds",
}
# Those that are given are one parameter, because a parameter of its own can't be left out.
PREPROCESSING = {f"model.{name}" for name in PreprocessingSettings.model_fields}
# No step reads these: they shape the graph, or the command reads them.
NOT_IN_STEPS = {"data.num_folds", "extraction.shards", "tracking.uri", "tracking.experiment"}


def arguments(settings: Settings, root: Path, lineage: dict[str, Any]) -> dict[str, Any]:
    """Build the pipeline's arguments from settings, the DVC pointers in `root` and a lineage."""
    return {
        **dict(_scalars(settings)),
        "data_pointer": _pointer(root, "data"),
        "models_pointer": _pointer(root, "models"),
        "folds": list(range(settings.data.num_folds)),
        "candidates": [
            candidate.model_dump(exclude_none=True) for candidate in settings.candidates
        ],
        "cuts": settings.cuts,
        "preprocessing": settings.model.given("json"),
        "lineage": lineage,
    }


def _scalars(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Yield the graph's parameter and the value of each setting that a step reads."""
    for section, values in settings:
        if isinstance(values, BaseModel):
            for name, value in values:
                if (key := f"{section}.{name}") not in NOT_IN_STEPS | PREPROCESSING:
                    yield PARAMETERS.get(key, name), value


def _pointer(root: Path, name: str) -> str:
    """Read a DVC pointer as one line: kfp cuts off a default at a line break."""
    return json.dumps(yaml.safe_load(dvc.read_pointer(root, name)), sort_keys=True)
