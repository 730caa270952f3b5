"""Where a run comes from: the commit, the images, the settings, the runner."""

from pathlib import Path

from crossfold.infra.images import DATA, TRAIN, image_name
from crossfold.infra.shell import git, has_commit
from crossfold.settings import Settings

CLUSTER = "cluster"


def lineage(root: Path, settings: Settings, runner: str) -> dict[str, str]:
    """Return what a registered version says of its origin; outside git, without a commit.

    Only register_model gets it, which is never answered from the cache: it is in no step's key.

    Raises:
        UserError: the project is in git, and git cannot name its commit.
    """
    commit = _commit(root)
    origin = {
        "image_data": image_name(DATA),
        "image_train": image_name(TRAIN),
        "runner": runner,
        "settings": settings.model_dump_json(exclude={"tracking"}),
    }
    if commit:
        origin["git_commit"] = commit
        # The lines that change with every run are results, not code.
        changed = git(root, "status", "--porcelain", "--", ".", ":!reports", ":!dvc.lock")
        origin["git_dirty"] = str(bool(changed)).lower()
    return origin


def _commit(root: Path) -> str:
    """Return the commit; nothing outside git, and in a repository that has none yet."""
    return git(root, "rev-parse", "HEAD") if has_commit(root) else ""
