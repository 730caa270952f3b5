"""Check out a commit into a temporary git worktree, and remove it again."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crossfold.errors import UserError
from crossfold.infra.shell import GitError, NoRepositoryError, git


@contextmanager
def checked_out(root: Path, commit: str, folder: Path, *, keep: bool) -> Iterator[Path]:
    """Check a commit out into `folder`, which must not exist, and yield the project there.

    The project may lie below the repository's root. The worktree goes with the block, unless it is
    to be kept.

    Raises:
        UserError: there is no git, no repository or no such commit.
    """
    below = _place(root, commit)
    try:
        # No hook of the user's: it would take the worktree for a place where work is done.
        git(root, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", folder, commit)
        for name in ("params.yaml", "pyproject.toml"):
            if not (folder / below / name).exists():
                raise UserError(
                    f"the commit {commit} has no {name}, so it is no whole Crossfold project: "
                    "run in a clone of the repository that the version was trained in"
                )
        yield folder / below
    finally:
        if not keep:
            remove(root, folder)


def remove(root: Path, folder: Path) -> None:
    """Delete a worktree's files and let git forget it; no other worktree is touched."""
    with suppress(GitError):  # it was not complete
        git(root, "worktree", "remove", "--force", folder)
    shutil.rmtree(folder, ignore_errors=True)


def _place(root: Path, commit: str) -> str:
    """Return where below the repository's root the project lies; the commit is there."""
    try:
        below = git(root, "rev-parse", "--show-prefix")
    except NoRepositoryError as error:
        raise UserError(
            f"{root} is in no git repository, and a version is reproduced from its commit: clone "
            "the repository that it was trained in, with its .dvc/config, and run there"
        ) from error
    try:
        git(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
    except GitError as error:
        if git(root, "rev-parse", "--is-shallow-repository") == "true":
            raise UserError(
                f"the commit {commit} is not in this clone, which is a shallow one: "
                "`git fetch --unshallow`, then again"
            ) from error
        raise UserError(
            f"the commit {commit} is not in this repository: `git fetch --all`, or fetch it from "
            "where the version was trained; a commit that was never pushed is only there"
        ) from error
    return below
