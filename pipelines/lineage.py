"""Where a run comes from: the commit, the images, the settings, the runner."""

import subprocess
from pathlib import Path

from crossfold.settings import Settings
from pipelines.images import DATA, TRAIN, image_name

CLUSTER = "cluster"


def lineage(root: Path, settings: Settings, runner: str) -> dict[str, str]:
    """Return what a registered version says of its origin; outside git, without a commit.

    Only register_model gets it, which is never answered from the cache: it is in no step's key.
    """
    commit = _git(root, "rev-parse", "HEAD")
    origin = {
        "image_data": image_name(DATA),
        "image_train": image_name(TRAIN),
        "runner": runner,
        "settings": settings.model_dump_json(exclude={"tracking"}),
    }
    if commit:
        origin["git_commit"] = commit
        # The lines that change with every run are results, not code.
        changed = _git(root, "status", "--porcelain", "--", ".", ":!reports", ":!dvc.lock")
        origin["git_dirty"] = str(bool(changed)).lower()
    return origin


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
