"""Time `crossfold run` on the sample of digits, in a new project."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

from crossfold.data.samples.digits import DIGITS_MODEL

from .machine import ROOT, Measured, Record

_VERSIONED = (".dvc/config", ".dvcignore", ".gitignore", "data.dvc", "models.dvc")
_STORES = ("MLFLOW_", "DVC_", "CROSSFOLD_", "GIT_", "AWS_", "GDRIVE_")


class LocalRun(Record):
    """The seconds of four runs, in this order."""

    first: Measured  # pushes the data and makes MLflow's store, once for a project
    unchanged: Measured  # every step from the cache but the last
    changed: Measured  # another weight decay of one head
    uncached: Measured


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
    uncached, _ = _time(folder, "crossfold run --no-cache")
    return LocalRun(first=first, unchanged=unchanged, changed=changed, uncached=uncached)


def _time(folder: Path, command: str) -> tuple[float, str]:
    """Time a command without the stores and remotes that this machine may have set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_STORES)}
    env = {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"}
    start = time.perf_counter()
    done = subprocess.run(command.split(), cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start, done.stdout
