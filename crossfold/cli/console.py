"""Helpers that the commands share: consoles, common options, checks, and error exits."""

import os
import socket
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from crossfold.errors import UserError

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
    typer.Option(metavar="NAME", help="A context of kubectl.", show_default="kind-crossfold"),
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
    """Check that this machine has a local MLflow store.

    Raises:
        UserError: there is none yet.
    """
    if not LOCAL_STORE.exists():
        raise UserError("there is no run yet: make run")


def require_output_file(option: str, path: Path) -> None:
    """Check that an option's output file can be written, without creating any folder.

    Raises:
        UserError: it can't; the message names the option.
    """
    folder = path.parent
    if path.is_dir() or not folder.is_dir():
        raise UserError(f"{option} {path}: not a file in a folder that is there")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UserError(f"{option} {path}: it cannot be written: no permission")


def require_free_port(port: int, command: str) -> None:
    """Check that a port on this machine is free.

    Raises:
        UserError: it is taken; the message shows how to choose another port for `command`.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise UserError(
                f"port {port} is in use: choose another with --port ({command} PORT=…)"
            ) from None


def fail(message: str, status: int) -> NoReturn:
    """Print an error message and exit with a status."""
    errors.print(f"[red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(status)
