"""Other programs that the commands start: git, docker, kubectl, kind."""

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from crossfold.errors import UserError

Say = Callable[[str], None]  # takes a line for the user

# Logins of MLflow and of DVC's remote, and what else is between the commands and their steps.
_OURS = ("MLFLOW_", "CROSSFOLD_")


class GitError(UserError):
    """git is there and refuses."""


class NoRepositoryError(GitError):
    """The folder lies in no git repository."""


def environment() -> dict[str, str]:
    """Return this process's variables without Crossfold's and MLflow's, for another program."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


def run(
    *command: str,
    given: str = "",
    cwd: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, whether it fails or not, and capture its output.

    It gets a text as its input, never the terminal's: kubectl would ask there for a missing login.
    `variables` are added to `environment`.
    """
    env = {**environment(), **(variables or {})}
    return subprocess.run(
        command, input=given, cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


def output(
    *command: str, cwd: Path | None = None, variables: Mapping[str, str] | None = None
) -> str:
    """Return a program's output.

    Raises:
        UserError: it failed; the message is the program's.
    """
    done = run(*command, cwd=cwd, variables=variables)
    if done.returncode != 0:
        raise UserError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout.strip()


def run_visibly(
    *command: str, cwd: Path | None = None, variables: Mapping[str, str] | None = None
) -> None:
    """Run a program on the user's terminal.

    Raises:
        UserError: it failed.
    """
    env = {**environment(), **(variables or {})}
    if subprocess.run(command, cwd=cwd, env=env, check=False).returncode != 0:
        raise UserError(f"`{' '.join(command)}` failed: see what it said above")


def git(root: Path, *arguments: str | Path) -> str:
    """Return what git says in a folder.

    Raises:
        NoRepositoryError: the folder is in no repository.
        GitError: git refuses; the message is git's.
        UserError: the folder is in a repository, or must be, and git is not installed.
    """
    command = ["git", *map(str, arguments)]
    try:
        done = run(*command, cwd=root, variables={"LC_ALL": "C"})  # git translates its messages
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
