"""Describe a run's origin: the commit, the images, the settings, the runner."""

from pathlib import Path

from crossfold.infra.image_tags import DATA, TRAIN, image_name
from crossfold.infra.shell import git, has_commit
from crossfold.settings import Settings

from .base import RunnerName


def lineage(root: Path, settings: Settings, runner: RunnerName) -> dict[str, str]:
    """Collect the origin of a registered version; outside git, without a commit.

    Only register_model gets it. That step never comes from the cache, so the origin is in no
    step's cache key.

    Raises:
        UserError: the project is in git, and git cannot name its commit.
    """
    commit = _commit(root)
    origin = {
        "image_data": image_name(DATA),
        "image_train": image_name(TRAIN),
        "runner": runner.value,
        "settings": settings.model_dump_json(exclude={"tracking", "resources"}),
    }
    if commit:
        origin["git_commit"] = commit
        # Reports and dvc.lock change with every run: they are results, not code.
        changed = git(root, "status", "--porcelain", "--", ".", ":!reports", ":!dvc.lock")
        origin["git_dirty"] = str(bool(changed)).lower()
    return origin


def _commit(root: Path) -> str:
    """Name the present commit; empty outside git, and in a repository without commits."""
    return git(root, "rev-parse", "HEAD") if has_commit(root) else ""
