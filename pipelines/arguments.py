"""Build the pipeline's arguments from params.yaml and the DVC pointers."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from crossfold.diagnosis_settings import DiagnosisSettings
from crossfold.imaging.preprocessing import SquareGeometry
from crossfold.resource_settings import ResourceSettings
from crossfold.settings import AUTO, Network, Settings
from crossfold.versioning import dvc

# A setting is a parameter of the graph under its own name, or under this one if another section
# has a setting of the same name, or if the name is unclear without its section.
PARAMETERS = {
    "data.seed": "split_seed",
    "training.seed": "training_seed",
    "threads.alone": "threads_alone",
    "threads.folds": "threads_folds",
}
# No step reads these: they shape the graph, or the command reads them.
NOT_IN_STEPS = {
    "data.num_folds",
    "extraction.shards",
    "tracking.uri",
    "tracking.experiment",
    *(f"resources.{step}" for step in ResourceSettings.model_fields),
}
# Passed as JSON, because a setting of several forms, or one that may be null, has no type of
# Kubeflow's.
AS_JSON = {"data.groups", "data.labels", "data.exclude", "data.relabel", "registry.signature_key"}
# The settings of the networks, which each part of the extraction gets as one dictionary.
OF_NETWORKS = {f"model.{name}" for name in (*Network.model_fields, "backbones")}
# The settings that only diagnose_data reads, as one dictionary.
OF_DIAGNOSIS = {f"diagnosis.{name}" for name in DiagnosisSettings.model_fields}


def arguments(
    settings: Settings, root: Path, lineage: dict[str, Any], geometries: Iterable[SquareGeometry]
) -> dict[str, Any]:
    """Build the pipeline's arguments.

    Args:
        settings: The settings.
        root: The project's folder, with the DVC pointers.
        lineage: Origin of the run.
        geometries: The geometries of the backbones' squares.
    """
    pointers = {f"{name}_pointer": _pointer(root, name) for name in dvc.FOLDERS}
    return {
        **pointers,
        **dict(_scalars(settings)),
        "squares": [asdict(one) for one in sorted(set(geometries), key=repr)],
        **_extraction(_parts(settings, root)),
        "folds": list(range(settings.data.num_folds)),
        "candidates": [candidate.model_dump(exclude_none=True) for candidate in settings.compared],
        "choice": settings.choice.value,
        # Otherwise another margin of the gate would compute all features again.
        "int8_margin": settings.gate.margin if settings.model.precision == AUTO else 0.0,
        # The key itself: steps don't have the project's files.
        "signature_key": json.dumps(_signature_key(settings, root)),
        "diagnosis": settings.diagnosis.model_dump(mode="json"),
        "lineage": lineage,
    }


def _extraction(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Pass one part as parameters, and several as a list beside empty parameters."""
    if len(parts) == 1:
        return {**parts[0], "parts": []}
    empty = {name: type(value)() for name, value in parts[0].items()}
    return {**empty, "parts": parts}


def _parts(settings: Settings, root: Path) -> list[dict[str, Any]]:
    """List what is extracted: each shard of the images, with each backbone."""
    files = dvc.known_files(root, "models", settings.data.remote) or {}
    num_shards = settings.extraction.shards
    return [
        {
            "part": f"{backbone.name} {shard}" if num_shards > 1 else backbone.name,
            "backbone": backbone.model_dump(mode="json", exclude_none=True),
            "weights": backbone.weights,
            "weights_pointer": _weights_pointer(root, backbone.weights, files),
            "cuts": settings.cuts(backbone),
            "shard": shard,
            "num_shards": num_shards,
        }
        for backbone in settings.backbones
        for shard in range(num_shards)
    ]


def _weights_pointer(root: Path, weights: str, files: Mapping[str, str]) -> str:
    """Point to one file, so that other files under models/ change nothing, if its hash is known."""
    md5 = files.get(weights)
    return dvc.file_pointer(weights, md5) if md5 else _pointer(root, "models")


def _signature_key(settings: Settings, root: Path) -> str | None:
    if settings.registry.signature_key is None:
        return None
    from crossfold.predict.signatures import required_key

    return required_key(settings.registry, root)


def _scalars(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Yield the graph's parameter and the value of each setting that a step reads."""
    for section, values in settings:
        if isinstance(values, BaseModel):
            for name, value in values.model_dump(mode="json").items():  # kfp knows no tuples
                if (key := f"{section}.{name}") not in NOT_IN_STEPS | OF_NETWORKS | OF_DIAGNOSIS:
                    passed = json.dumps(value) if key in AS_JSON else value
                    yield PARAMETERS.get(key, name), passed


def _pointer(root: Path, name: str) -> str:
    """Read a DVC pointer as one line: kfp cuts off a default at a line break."""
    return json.dumps(yaml.safe_load(dvc.read_pointer(root, name)), sort_keys=True)
