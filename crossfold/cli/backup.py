"""The commands backup and restore."""

from pathlib import Path

from crossfold.runners.failures import signals_interrupt

from .console import Folder, Replace
from .infra import say


def backup(folder: Folder) -> None:
    """Save MLflow's database and the buckets of the services in Docker to a new folder."""
    from crossfold.infra.services.backup import backup

    with signals_interrupt("interrupted"):
        backup(Path.cwd(), folder, say)


def restore(folder: Folder, replace: Replace = False) -> None:
    """Restore a backup to the services in Docker, and start them."""
    from crossfold.infra.services.backup import restore

    with signals_interrupt("interrupted"):
        restore(Path.cwd(), folder, say, replace=replace)
