"""Other programs that the commands start: git, docker, kubectl, kind."""

import os
import subprocess
from pathlib import Path

from crossfold.errors import UserError

# Logins of MLflow and of DVC's remote, and what else is between the commands and their steps.
_OURS = ("MLFLOW_", "CROSSFOLD_")


class GitError(UserError):
    """git is there and refuses."""


class NoRepositoryError(GitError):
    """The folder lies in no git repository."""


def environment() -> dict[str, str]:
    """Return this process's variables without Crossfold's and MLflow's, for another program."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


def git(root: Path, *arguments: str | Path) -> str:
    """Return what git says in a folder.

    Raises:
        NoRepositoryError: the folder is in no repository.
        GitError: git refuses; the message is git's.
        UserError: the folder is in a repository, or must be, and git is not installed.
    """
    command = ["git", *map(str, arguments)]
    variables = {**environment(), "LC_ALL": "C"}  # git translates its messages
    try:
        done = subprocess.run(
            command, cwd=root, env=variables, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        if any((folder / ".git").exists() for folder in (root, *root.parents)):
            raise UserError(
                f"{root} is in a git repository and git is not installed: install it"
            ) from error
        raise NoRepositoryError(f"{root} is in no git repository") from error
    if done.returncode == 0:
        return done.stdout.strip()
    said = done.stderr.strip()
    if "not a git repository" in said:
        raise NoRepositoryError(f"{root} is in no git repository")
    raise GitError(f"`{' '.join(command)}` failed in {root}: {said}")


def has_commit(root: Path) -> bool:
    """Tell whether a folder lies in a repository that has a commit."""
    try:
        return bool(git(root, "rev-list", "--all", "--max-count=1"))
    except NoRepositoryError:
        return False
