"""Helpers that the commands share: consoles, common options, checks, and error exits."""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from crossfold.errors import UserError
from crossfold.infra.ports import is_free

# Bind the stream now: while Kubeflow's local runner works, sys.stdout is its log.
console = Console(file=sys.stdout, highlight=False)
errors = Console(stderr=True, highlight=False)

PARAMS = Path("params.yaml")
LOCAL_STORE = Path("runs/mlflow.db")

Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting of params.yaml for this run."
    ),
]

Context = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The kubectl context of the cluster.", show_default="kind-crossfold"
    ),
]

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of the backup.")]

Replace = Annotated[
    bool, typer.Option("--replace", help="Replace the runs and models that are there now.")
]

Registry = Annotated[
    str | None,
    typer.Option(
        metavar="HOST/PATH",
        help="Push the images there, for the cluster to pull.",
        show_default="kind loads them",
    ),
]


def require_local_store() -> None:
    """Check that this project has a local MLflow store.

    Raises:
        UserError: there is none yet.
    """
    if not LOCAL_STORE.exists():
        raise UserError("there is no run yet: start one with `crossfold run`")


def require_output_file(option: str, path: Path) -> None:
    """Check that an option's output file can be written, without creating any folder.

    Raises:
        UserError: it can't; the message names the option.
    """
    folder = path.parent
    if path.is_dir() or not folder.is_dir():
        raise UserError(f"{option} {path}: name a file in an existing folder")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UserError(f"{option} {path}: permission denied")


def require_page(page: Path) -> None:
    """Check that the page can be written, before the slow examination of the images.

    It creates no folder, because a failed examination writes no page.

    Raises:
        UserError: the page can't be written there.
    """
    try:
        if page.is_dir():
            raise UserError(f"--page {page}: it is a folder; name a file")
        folder = next(path for path in page.parents if path.exists() or path.is_symlink())
    except OSError as error:
        raise UserError(f"--page {page}: it cannot be written: {error.strerror}") from None
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--page {page}: {folder} is not a writable folder")


def require_free_port(port: int) -> None:
    """Check that a port on this machine is free.

    Raises:
        UserError: it is in use.
    """
    if not is_free(port):
        raise UserError(f"port {port} is in use: choose another with --port")


def fail(message: str, status: int) -> NoReturn:
    """Print an error message and exit with a status."""
    errors.print(f"[red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(status)
