"""The commands backup and restore."""

from pathlib import Path
from typing import Annotated

import typer

from .infra import say

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of the backup.")]


def backup(folder: Folder) -> None:
    """Save MLflow's database and the buckets of the services in Docker to a new folder."""
    from crossfold.infra.backup import backup

    backup(Path.cwd(), folder, say)


def restore(
    folder: Folder,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the runs and models that MLflow has now.")
    ] = False,
) -> None:
    """Restore a backup to the services in Docker, and start them."""
    from crossfold.infra.backup import restore

    restore(Path.cwd(), folder, say, replace=replace)
