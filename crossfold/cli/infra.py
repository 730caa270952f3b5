"""Commands for Docker and Kubernetes: images, services, cluster; and mlflow-ui."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from crossfold.errors import UserError
from crossfold.infra.image_tags import Torch
from crossfold.infra.object_store import ObjectStore
from crossfold.runners.failures import signals_interrupt

from .clean_mlflow import clean_cluster
from .console import (
    LOCAL_STORE,
    PARAMS,
    Context,
    Folder,
    Registry,
    Replace,
    console,
    require_free_port,
    require_local_store,
)

services = typer.Typer(
    help="Run MLflow, PostgreSQL and an object store in Docker.", no_args_is_help=True
)
cluster = typer.Typer(
    help="Run Kubeflow Pipelines and the services on kind or your own Kubernetes cluster.",
    no_args_is_help=True,
)


def mlflow_ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port on this machine.")] = 5000,
) -> None:
    """Serve MLflow's pages for the local store, on this machine only."""
    from crossfold.settings import load_settings
    from crossfold.tracking.names import MODEL_TRAINING
    from crossfold.tracking.sqlite_store import find_experiment, prepare_store

    tracking = load_settings(PARAMS).tracking
    if tracking.store:
        raise UserError(
            f"runs are tracked at {tracking.store} (params.yaml tracking.uri, or the environment "
            "variable MLFLOW_TRACKING_URI): open that address"
        )
    require_free_port(port)
    require_local_store()
    prepare_store(LOCAL_STORE)
    page = f"http://127.0.0.1:{port}"
    if (experiment := find_experiment(LOCAL_STORE, tracking.experiment)) is not None:
        page += f"/#/experiments/{experiment}/runs{MODEL_TRAINING}"
    typer.echo(f"the runs, as soon as the server has started: {page}")
    sys.stdout.flush()  # before another program takes this process
    store_uri = f"--backend-store-uri=sqlite:///{LOCAL_STORE}"
    address = ["--host=127.0.0.1", f"--port={port}", "--workers=1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", store_uri, *address])


def images(
    torch: Annotated[
        Torch | None,
        typer.Option(
            help="cpu: CPU-only torch from PyTorch's index; default: torch with CUDA.",
            show_default="the last choice; at first cpu if PyTorch's index answers",
        ),
    ] = None,
    python_image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="The Python base image.",
            show_default="the last choice; at first python:3.11-slim-bookworm",
        ),
    ] = None,
) -> None:
    """Build the images of the steps and MLflow's server, and list their sizes."""
    from crossfold.infra.image_build import build_images

    build_images(torch, python_image, say)


@services.command("up")
def services_up(
    object_store: Annotated[
        ObjectStore | None,
        typer.Option(
            help="The object store, from now on.",
            show_default="the one in services.env; at first minio",
        ),
    ] = None,
) -> None:
    """Start MLflow, PostgreSQL and an object store in Docker, and wait until they are ready."""
    from crossfold.infra.services.compose import up

    up(Path.cwd(), say, object_store)


@services.command("down")
def services_down() -> None:
    """Stop the services; their data stays."""
    from crossfold.infra.services.compose import down

    down(Path.cwd())


@cluster.command("up")
def cluster_up(
    context: Context = None,
    registry: Registry = None,
    small: Annotated[
        bool,
        typer.Option("--small", help="Request less CPU per pod, for a machine with few cores."),
    ] = False,
    node_image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="The node image of a new kind cluster, for example from a mirror.",
            show_default="the one in kind-cluster.yaml",
        ),
    ] = None,
    object_store: Annotated[
        ObjectStore | None,
        typer.Option(
            help="The object store of a new cluster. An existing one keeps its own.",
            show_default="minio",
        ),
    ] = None,
) -> None:
    """Bring up Kubeflow, MLflow, PostgreSQL and an object store, and wait until they are ready."""
    from crossfold.infra.cluster.kind import KIND_CONTEXT
    from crossfold.infra.cluster.lifecycle import up

    up(
        context or KIND_CONTEXT,
        registry,
        say,
        small=small,
        node_image=node_image,
        object_store=object_store,
    )


@cluster.command("down")
def cluster_down(context: Context = None) -> None:
    """Stop the kind cluster; its data stays."""
    from crossfold.infra.cluster.kind import KIND_CONTEXT
    from crossfold.infra.cluster.lifecycle import down

    down(context or KIND_CONTEXT, say)


@cluster.command("status")
def cluster_status(context: Context = None) -> None:
    """Show whether the services are ready, and their addresses; exits with 1 if any isn't."""
    from crossfold.infra.cluster.kind import KIND_CONTEXT
    from crossfold.infra.cluster.lifecycle import status

    if not status(context or KIND_CONTEXT, say):
        raise typer.Exit(1)


@cluster.command("env")
def cluster_env(context: Context = None) -> None:
    """Print the address and login of the cluster's MLflow as shell exports.

    After `eval "$(crossfold cluster env)"`, models, lineage, promote, predict, serve and reproduce
    use the cluster's registry.
    """
    from crossfold.infra.cluster.kind import KIND_CONTEXT
    from crossfold.runners.kubeflow.access import mlflow_variables

    for name, value in mlflow_variables(context or KIND_CONTEXT).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@cluster.command("backup")
def cluster_backup(folder: Folder, context: Context = None) -> None:
    """Save the cluster's databases (MLflow's and Kubeflow's) and buckets to a new folder."""
    from crossfold.infra.cluster.backup.commands import backup
    from crossfold.infra.cluster.kind import KIND_CONTEXT

    with signals_interrupt("interrupted"):
        backup(context or KIND_CONTEXT, folder, say)


@cluster.command("restore")
def cluster_restore(folder: Folder, replace: Replace = False, context: Context = None) -> None:
    """Restore a backup to a cluster that is up; MLflow and Kubeflow stop meanwhile."""
    from crossfold.infra.cluster.backup.commands import restore
    from crossfold.infra.cluster.kind import KIND_CONTEXT

    with signals_interrupt("interrupted"):
        restore(context or KIND_CONTEXT, folder, say, replace=replace)


cluster.command("clean")(clean_cluster)


def say(line: str) -> None:
    """Print a line, however long."""
    console.print(escape(line), soft_wrap=True)
