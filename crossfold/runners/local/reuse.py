"""Compare a run's inputs with those of earlier runs; imports nothing slow."""

import hashlib
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from crossfold.errors import UserError
from crossfold.infra.image_tags import DATA, TRAIN, code_name
from crossfold.runners.base import RunnerName
from crossfold.runners.pre_run_checks import recall_preprocessing
from crossfold.settings import Settings
from pipelines.arguments import arguments

from .run_folders import FINISHED, HOME, all_runs


def fingerprint(
    inputs: Mapping[str, Any], settings: Settings, runner: RunnerName, image: Callable[[str], str]
) -> str:
    """Hash the settings, and everything that decides a run's result.

    The settings are logged to the run in MLflow, which accepts no second value for one of them.
    """
    decisive = {name: value for name, value in inputs.items() if name != "lineage"}
    texts = settings.model_dump_json(exclude={"tracking", "resources"})
    content = [decisive, texts, runner, image(DATA), image(TRAIN)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def process_cache() -> str:
    """Name the cache of processes after the torch build installed here: `image` has none."""
    return f"{RunnerName.LOCAL}-torch-{version('torch')}"


def expects_full_reuse(root: Path, settings: Settings) -> bool:
    """Guess whether a run of processes will reuse every step that it can.

    A wrong guess changes no result: it only decides what is imported in advance.
    """
    home = root / HOME
    if not (home / "cache" / process_cache()).exists():
        return False
    geometries = []
    for backbone in settings.backbones:
        known = recall_preprocessing(root, settings, backbone)
        if known is None:
            return False
        geometries.append(known.geometry)
    try:
        inputs = arguments(settings, root, {}, geometries)
    except UserError:  # the run itself will raise it
        return False
    same = fingerprint(inputs, settings, RunnerName.LOCAL, code_name)
    return any(
        run.status == FINISHED
        and run.fingerprint == same
        and all(run.outputs(title).exists() for title in run.steps)
        for run in all_runs(home)
    )
