"""Deleting what old runs have left, but nothing that is still referred to."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .runs import FINISHED, HOME, all_runs, only_run


def clean_runs(root: Path, *, keep: int) -> str:
    """Delete all but the last `keep` finished runs and the unfinished one after them, if any.

    A kept run's steps may have been answered from the cache with an older run's outputs: these
    stay, with their cache entries. MLflow's store and its models are not touched.

    Returns:
        What was freed, in words.

    Raises:
        UserError: a run is going on.
    """
    home = root / HOME
    if not home.exists():
        return "there is nothing to clean"
    with only_run(home):
        before = _size(home)
        runs = all_runs(home)
        finished = [run for run in runs if run.status == FINISHED][-keep:]
        kept = [*finished, *(run for run in runs[-1:] if run.status != FINISHED)]
        outputs = {run.outputs(title) for run in kept for title in run.steps}
        for entry in (home / "cache").rglob("*.json"):
            if not outputs.intersection(_folders(home, json.loads(entry.read_text()))):
                entry.unlink()
        for step in _step_folders(home / "pipeline"):
            if step not in outputs:
                shutil.rmtree(step)
        _remove_empty(home / "pipeline")
        for run in runs:
            if run not in kept:
                shutil.rmtree(run.folder)
    return f"{(before - _size(home)) / 1e6:.1f} MB freed, {len(kept)} runs kept"


def _folders(home: Path, entry: dict[str, Any]) -> set[Path]:
    """Return the folders of the outputs that an entry of Kubeflow's cache refers to."""
    return {
        (home / value["uri"]).parent
        for value in entry.values()
        if isinstance(value, dict) and "uri" in value
    }


def _step_folders(pipeline: Path) -> Iterator[Path]:
    """Yield the folders that steps have written outputs to; a step's record is in each."""
    yield from [record.parent for record in pipeline.rglob("step.json")]


def _remove_empty(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
