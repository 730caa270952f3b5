"""Check out a commit into a temporary git worktree, and remove it again."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crossfold.errors import UserError
from crossfold.infra.shell import GitError, NoRepositoryError, git


@contextmanager
def checked_out(root: Path, commit: str, folder: Path, *, keep: bool) -> Iterator[Path]:
    """Check out a commit into `folder`, which must not exist, and yield the project's path in it.

    The project may lie below the repository's root. The worktree is removed after the block unless
    `keep` is set.

    Raises:
        UserError: git, the repository, the commit or one of the project's files is missing.
    """
    below = _place(root, commit)
    try:
        # Without the user's hooks: they would treat the worktree as one that somebody works in.
        git(root, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", folder, commit)
        for name in ("params.yaml", "pyproject.toml"):
            if not (folder / below / name).exists():
                raise UserError(
                    f"the commit {commit} has no {name}, so it is not a complete Crossfold "
                    "project: run in a clone of the repository that the version was trained in"
                )
        yield folder / below
    finally:
        if not keep:
            remove(root, folder)


def remove(root: Path, folder: Path) -> None:
    """Delete a worktree's files and its entry in git; other worktrees stay untouched."""
    with suppress(GitError):  # an incomplete worktree is unknown to git
        git(root, "worktree", "remove", "--force", folder)
    shutil.rmtree(folder, ignore_errors=True)


def _place(root: Path, commit: str) -> str:
    """Check that the commit exists, and return the project's path below the repository's root."""
    try:
        below = git(root, "rev-parse", "--show-prefix")
    except NoRepositoryError as error:
        raise UserError(
            f"{root} is not in a git repository, but a version is reproduced from its commit: "
            "clone the repository that it was trained in, with its .dvc/config, and run there"
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
