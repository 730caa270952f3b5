"""Delete the files of old runs, except those that a kept run refers to."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .run_folders import FINISHED, HOME, all_runs, only_run


def clean_runs(root: Path, *, keep: int) -> str:
    """Delete all but the last `keep` finished runs and an unfinished one after them.

    A kept run's steps may have reused an older run's outputs from the cache: these outputs stay,
    with their cache entries. MLflow's store and its models are not touched.

    Returns:
        The freed space and the number of kept runs, as text for the user.

    Raises:
        UserError: a run is in progress.
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
    """Find the output folders that an entry of Kubeflow's cache refers to."""
    return {
        (home / value["uri"]).parent
        for value in entry.values()
        if isinstance(value, dict) and "uri" in value
    }


def _step_folders(pipeline: Path) -> Iterator[Path]:
    """Yield the output folders of steps; each contains a step's record."""
    yield from [record.parent for record in pipeline.rglob("step.json")]


def _remove_empty(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
