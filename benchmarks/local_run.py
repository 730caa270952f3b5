"""Time `crossfold run` on the sample of digits, in a new project."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

from crossfold.data.samples.digits import DIGITS_MODEL
from crossfold.step.runtime import RECORD
from crossfold.step.runtime import Record as StepRecord

from .machine import ROOT, Measured, Record

_VERSIONED = (".dvc/config", ".dvcignore", ".gitignore", "data.dvc", "models.dvc")
_STORES = ("MLFLOW_", "DVC_", "CROSSFOLD_", "GIT_", "AWS_", "GDRIVE_")


class LocalRun(Record):
    """The seconds of four runs, in this order."""

    first: Measured  # pushes the data and makes MLflow's store, once for a project
    unchanged: Measured  # every step from the cache but the last
    changed: Measured  # another weight decay of one head
    uncached: Measured
    outside_steps: Measured | None = None  # of `uncached`: no step was at work


def time_local_run(folder: Path) -> LocalRun:
    """Run the digits with two heads to compare.

    Raises:
        SystemExit: a run failed, or decoded images again though only a head's settings changed.
    """
    (folder / ".dvc").mkdir(parents=True)
    for name in _VERSIONED:
        shutil.copy(ROOT / name, folder / name)
    settings = yaml.safe_load((ROOT / "params.yaml").read_text())
    settings["model"].update(DIGITS_MODEL)
    settings["candidates"] = [{"train_from": "head", "weight_decay": wd} for wd in (0.01, 0.1)]
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    _time(folder, "git init --quiet")
    _time(folder, "crossfold sample --digits")
    first, _ = _time(folder, "crossfold run")
    unchanged, _ = _time(folder, "crossfold run")
    changed, output = _time(folder, "crossfold run --set candidates.0.weight_decay=0.02")
    if "↺ extract_features" not in output:
        raise SystemExit(f"images were decoded again for a head's settings:\n{output}")
    start = time.time()
    uncached, _ = _time(folder, "crossfold run --no-cache")
    return LocalRun(
        first=first,
        unchanged=unchanged,
        changed=changed,
        uncached=uncached,
        outside_steps=uncached - _seconds_at_work(folder, start),
    )


def _seconds_at_work(folder: Path, since: float) -> float:
    """Count the seconds in which at least one of the steps that began after `since` was at work."""
    records = [StepRecord.read(path.parent) for path in (folder / "runs").rglob(RECORD)]
    total, until = 0.0, since
    for record in sorted(records, key=lambda record: record.started):
        if record.started >= since and record.ended is not None:
            total += max(0.0, record.ended - max(record.started, until))
            until = max(until, record.ended)
    return total


def _time(folder: Path, command: str) -> tuple[float, str]:
    """Time a command without the stores and remotes that this machine may have set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_STORES)}
    env = {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"}
    start = time.perf_counter()
    done = subprocess.run(command.split(), cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start, done.stdout
