"""The command clean-mlflow."""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from .console import LOCAL_STORE, console

if TYPE_CHECKING:
    from crossfold.infra.services.compose_project import ComposeProject
    from crossfold.tracking.unused_runs import RunTree


def clean_mlflow(
    keep: Annotated[int, typer.Option(min=1, help="How many finished runs to keep.")] = 3,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete them permanently, with their files.")
    ] = False,
) -> None:
    """List old runs in MLflow that no registered version needs, and delete them with --delete."""
    from crossfold.tracking.store import without_login
    from crossfold.tracking.unused_runs import unused_trees

    from .versions.registry import open_registry

    settings, client = open_registry()
    address = os.environ["MLFLOW_TRACKING_URI"]
    services = _services(address) if delete else None
    experiment = client.get_experiment_by_name(settings.tracking.experiment)
    trees = unused_trees(client, experiment.experiment_id, keep) if experiment else []
    _list(trees)
    if trees and delete:
        _delete(trees, address, services)
    done = "deleted" if delete else "can be deleted"
    place = without_login(settings.tracking.store or str(LOCAL_STORE))
    count = f"{len(trees)} pipeline runs {done} in {place}"
    advice = ". To delete them, add --delete" if trees and not delete else ""
    console.print(escape(count + advice), soft_wrap=True)


def _services(address: str) -> "ComposeProject | None":
    """Find the services at an address; None for a local store."""
    from crossfold.infra.services.run_deletion import services_at
    from crossfold.tracking.sqlite_store import SQLITE

    return None if address.startswith(SQLITE) else services_at(Path.cwd(), address)


def _list(trees: Sequence["RunTree"]) -> None:
    for tree in trees:
        info = tree.root.info
        started = datetime.fromtimestamp(info.start_time / 1000)
        line = f"{started:%Y-%m-%d %H:%M} {info.status} {info.run_name} ({len(tree.runs)} runs)"
        console.print(escape(line), soft_wrap=True)


def _delete(trees: Sequence["RunTree"], address: str, services: "ComposeProject | None") -> None:
    from crossfold.infra.services.run_deletion import delete_from_services, delete_from_store
    from crossfold.tracking.sqlite_store import SQLITE

    runs = [run for tree in trees for run in tree.run_ids]
    models = [model for tree in trees for model in tree.models]
    if services:
        delete_from_services(services, runs, models)
    else:
        delete_from_store(Path(address.removeprefix(SQLITE)), runs, models)
