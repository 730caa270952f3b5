"""The commands clean-mlflow and cluster clean."""

import os
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from .console import Context, console

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from crossfold.infra.run_deletion import Deletion
    from crossfold.tracking.unused_runs import RunTree

Keep = Annotated[int, typer.Option(min=1, help="How many finished runs to keep.")]
Delete = Annotated[bool, typer.Option("--delete", help="Delete them for good, with their files.")]


def clean_mlflow(keep: Keep = 3, delete: Delete = False) -> None:
    """List old runs in MLflow that no registered version needs, and delete them with --delete."""
    from crossfold.tracking.sqlite_store import SQLITE
    from crossfold.tracking.store import without_login

    from .versions.registry import open_registry

    settings, client = open_registry()
    address = os.environ["MLFLOW_TRACKING_URI"]
    deletion = _deletion_at(address) if delete else None
    num_trees = _clean(client, settings.tracking.experiment, keep, deletion)
    is_local = address.startswith(SQLITE)
    place = os.path.relpath(address.removeprefix(SQLITE)) if is_local else without_login(address)
    _summarise(num_trees, place, deleted=delete)


def clean_cluster(keep: Keep = 3, delete: Delete = False, context: Context = None) -> None:
    """List old runs in a cluster's MLflow that no version needs, and delete them with --delete."""
    from crossfold.infra.cluster.checks import check_kubectl
    from crossfold.infra.cluster.kind import KIND_CONTEXT
    from crossfold.infra.cluster.kubectl import Cluster
    from crossfold.infra.cluster.run_deletion import delete_from_cluster
    from crossfold.runners.kubeflow.access import connected_mlflow
    from crossfold.tracking.store import connect

    check_kubectl()
    cluster = Cluster(context or KIND_CONTEXT)
    cluster.check_answers()
    with connected_mlflow(cluster):
        deletion = partial(delete_from_cluster, cluster) if delete else None
        num_trees = _clean(connect(), os.environ["MLFLOW_EXPERIMENT_NAME"], keep, deletion)
    _summarise(num_trees, cluster.context, deleted=delete)


def _deletion_at(address: str) -> "Deletion":
    """Choose how to delete from the local store, or from the services, at an address."""
    from crossfold.infra.run_deletion import delete_from_store
    from crossfold.infra.services.run_deletion import delete_from_services, services_at
    from crossfold.tracking.sqlite_store import SQLITE

    if address.startswith(SQLITE):
        return partial(delete_from_store, Path(address.removeprefix(SQLITE)))
    return partial(delete_from_services, services_at(Path.cwd(), address))


def _clean(
    client: "MlflowClient", experiment_name: str, keep: int, deletion: "Deletion | None"
) -> int:
    """List the pipeline runs that nothing needs, delete them if asked, and return their number."""
    from crossfold.tracking.unused_runs import unused_trees

    experiment = client.get_experiment_by_name(experiment_name)
    trees = unused_trees(client, experiment.experiment_id, keep) if experiment else []
    _list(trees)
    if trees and deletion:
        deletion(
            [run for tree in trees for run in tree.run_ids],
            [model for tree in trees for model in tree.models],
        )
    return len(trees)


def _list(trees: Sequence["RunTree"]) -> None:
    for tree in trees:
        info = tree.root.info
        started = datetime.fromtimestamp(info.start_time / 1000)
        line = f"{started:%Y-%m-%d %H:%M} {info.status} {info.run_name} ({len(tree.runs)} runs)"
        console.print(escape(line), soft_wrap=True)


def _summarise(num_trees: int, place: str, *, deleted: bool) -> None:
    done = "deleted" if deleted else "can be deleted"
    advice = ". To delete them, add --delete" if num_trees and not deleted else ""
    what = "1 pipeline run" if num_trees == 1 else f"{num_trees} pipeline runs"
    console.print(escape(f"{what} {done} in {place}{advice}"), soft_wrap=True)
