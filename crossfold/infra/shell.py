"""Run other programs: git, docker, kubectl, kind."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from crossfold.errors import UserError
from crossfold.step.environment import for_other_programs

File = BinaryIO | None
_LAST_LINES = 20


class GitError(UserError):
    """git failed."""


class NoRepositoryError(GitError):
    """The folder is not in a git repository."""


def run(
    *command: str,
    given: str = "",
    cwd: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, successful or not, and capture its output.

    The program reads `given`, never the terminal, where kubectl would ask for a missing login.
    `variables` are added to `for_other_programs`.
    """
    env = {**for_other_programs(), **(variables or {})}
    return subprocess.run(
        command, input=given, cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


def output(
    *command: str, cwd: Path | None = None, variables: Mapping[str, str] | None = None
) -> str:
    """Run a program and return its output, without surrounding white space.

    Raises:
        UserError: the program failed; the message is its own.
    """
    done = run(*command, cwd=cwd, variables=variables)
    if done.returncode != 0:
        raise UserError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout.strip()


def run_visibly(
    *command: str, cwd: Path | None = None, variables: Mapping[str, str] | None = None
) -> None:
    """Run a program with its output on the user's terminal.

    Raises:
        UserError: the program failed.
    """
    env = {**for_other_programs(), **(variables or {})}
    if subprocess.run(command, cwd=cwd, env=env, check=False).returncode != 0:
        raise UserError(f"`{' '.join(command)}` failed: see its output above")


def stream(
    *command: str,
    source: File = None,
    target: File = None,
    cwd: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Run a program that reads `source` and writes to `target`, of any size.

    Raises:
        UserError: the program failed; the message has the last lines of its errors.
    """
    done = subprocess.run(
        command,
        stdin=source or subprocess.DEVNULL,
        stdout=target or subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env={**for_other_programs(), **(variables or {})},
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        end = "\n".join(lines[-_LAST_LINES:])
        raise UserError(f"`{' '.join(command)}` failed:\n{end}")


def git(root: Path, *arguments: str | Path) -> str:
    """Run git in a folder and return its output, without surrounding white space.

    Raises:
        NoRepositoryError: the folder is not in a repository.
        GitError: git failed; the message is its own.
        UserError: the folder is in a repository, but git is not installed.
    """
    command = ["git", *map(str, arguments)]
    try:
        done = run(*command, cwd=root, variables={"LC_ALL": "C"})  # for untranslated messages
    except FileNotFoundError as error:
        if any((folder / ".git").exists() for folder in (root, *root.parents)):
            raise UserError(
                f"{root} is in a git repository, but git is not installed: install it"
            ) from error
        raise NoRepositoryError(f"{root} is not in a git repository") from error
    if done.returncode == 0:
        return done.stdout.strip()
    said = done.stderr.strip()
    if "not a git repository" in said:
        raise NoRepositoryError(f"{root} is not in a git repository")
    raise GitError(f"`{' '.join(command)}` failed in {root}: {said}")


def has_commit(root: Path) -> bool:
    """Tell whether a folder is in a repository with at least one commit."""
    try:
        return bool(git(root, "rev-list", "--all", "--max-count=1"))
    except NoRepositoryError:
        return False
