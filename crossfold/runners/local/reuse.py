"""Compare a run's inputs with those of earlier runs; imports nothing slow."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from crossfold.infra.image_tags import DATA, TRAIN, code_name
from crossfold.runners.base import RunnerName

from .run_folders import FINISHED, HOME, all_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from crossfold.settings import Settings

_POINTERS = ("data.dvc", "models.dvc")


def fingerprint(
    inputs: Mapping[str, Any], settings: Settings, runner: RunnerName, image: Callable[[str], str]
) -> str:
    """Hash the settings, and everything that decides a run's result.

    The settings are logged to the run in MLflow, which accepts no second value for one of them.
    """
    decisive = {name: value for name, value in inputs.items() if name != "lineage"}
    content = [decisive, _texts(settings), runner, image(DATA), image(TRAIN)]
    return _hash(content)


def request(root: Path, settings: Settings, runner: RunnerName) -> str:
    """Hash a run's settings, pointers and code.

    Unlike the fingerprint, this takes neither DVC nor a check of the networks, whose imports take
    time. It also changes with files under models/ that the run does not use.
    """
    paths = [root / name for name in _POINTERS]
    pointers = [path.read_bytes().hex() for path in paths if path.exists()]
    return _hash([_texts(settings), pointers, runner, code_name(DATA), code_name(TRAIN)])


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
    same = request(root, settings, RunnerName.LOCAL)
    return any(
        run.status == FINISHED
        and run.request == same
        and all(run.outputs(title).exists() for title in run.steps)
        for run in all_runs(home)
    )


def _texts(settings: Settings) -> str:
    return settings.model_dump_json(exclude={"tracking", "resources"})


def _hash(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
