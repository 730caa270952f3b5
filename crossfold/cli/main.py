"""The `crossfold` command."""

import os
import shlex
import sys
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.markup import escape

from crossfold.errors import UserError
from crossfold.infra.images import Torch
from crossfold.step.user import ensure_user_name

from . import predict
from . import registry as cli_registry
from .console import (
    LOCAL_STORE,
    PARAMS,
    Changes,
    console,
    fail,
    require_free_port,
    require_local_store,
    require_output_file,
)

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException

# Imports of heavy libraries are inside the commands: `crossfold --help` needs none of them.

app = typer.Typer(
    help="Labelled images in, a cross-validated, traced, registered classifier out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
services = typer.Typer(
    help="MLflow with PostgreSQL and an object store, in Docker.", no_args_is_help=True
)
app.add_typer(services, name="services")
cluster = typer.Typer(
    help="Kubeflow Pipelines and the services on Kubernetes: a kind cluster, or one of yours.",
    no_args_is_help=True,
)
app.add_typer(cluster, name="cluster")
app.command()(predict.predict)
app.command()(predict.serve)
app.command()(cli_registry.models)
app.command()(cli_registry.lineage)
app.command()(cli_registry.promote)
app.command()(cli_registry.rollback)
app.command()(cli_registry.reproduce)


class Runner(StrEnum):
    """Where the steps of a run are executed."""

    LOCAL = "local"
    DOCKER = "docker"
    CLUSTER = "cluster"


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


@app.command()
def run(
    on: Annotated[Runner, typer.Option(help="Where the steps run.")] = Runner.LOCAL,
    changes: Changes = None,
    cache: Annotated[bool, typer.Option(help="Reuse steps whose inputs are unchanged.")] = True,
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="Also update reports/metrics.json and reports/plots, as `dvc repro` does.",
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show all that the steps say.")
    ] = False,
    context: Context = None,
    registry: Registry = None,
) -> None:
    """Run the pipeline: fetch, extract, train the folds, choose, train, evaluate, register."""
    from crossfold.settings import load_settings

    settings = load_settings(PARAMS, changes or ())  # a mistake in it is found before the imports

    if on is not Runner.CLUSTER and (context or registry):
        raise UserError("--context and --registry are for --on cluster")

    from crossfold.runners.display import Display

    from .summary import show

    display = Display(console, verbose=verbose)
    if on is Runner.CLUSTER:
        from crossfold.infra.cluster import KIND_CONTEXT
        from crossfold.runners.kubeflow.run import run_on_cluster

        outcome = run_on_cluster(
            Path.cwd(),
            settings,
            display,
            context=context or KIND_CONTEXT,
            registry=registry,
            caching=cache,
            record=record,
        )
    else:
        from crossfold.runners.local.fork_server import fork_server

        with fork_server() if on is Runner.LOCAL else nullcontext():
            from crossfold.runners.local.run import run_here

            outcome = run_here(
                Path.cwd(), settings, display, on=on.value, caching=cache, record=record
            )
    show(console, outcome)


@app.command()
def schedule(
    cron: Annotated[
        str, typer.Option(help="When, in UTC, as cron writes it: '0 3 * * *' is 3 o'clock daily.")
    ],
    branch: Annotated[
        str, typer.Option(help="Whose data.dvc and models.dvc count, as they are each time.")
    ] = "main",
    repository: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="The git repository.", show_default="that of the remote origin"
        ),
    ] = None,
    changes: Changes = None,
    context: Context = None,
    registry: Registry = None,
) -> None:
    """Run the pipeline on Kubernetes at certain times, with the data that a branch has then."""
    from crossfold.settings import load_settings

    settings = load_settings(PARAMS, changes or ())

    from crossfold.infra.cluster import KIND_CONTEXT
    from crossfold.runners.display import Display
    from crossfold.runners.kubeflow import schedule

    schedule.schedule(
        Path.cwd(),
        settings,
        Display(console, verbose=False),
        cron=cron,
        branch=branch,
        repository=repository,
        context=context or KIND_CONTEXT,
        registry=registry,
    )


@app.command("compile")
def compile_(
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")] = Path(
        "pipeline.yaml"
    ),
    changes: Changes = None,
) -> None:
    """Write the pipeline as the YAML that every Kubeflow Pipelines takes."""
    from crossfold.runners.lineage import CLUSTER, lineage
    from crossfold.settings import load_settings
    from pipelines.arguments import arguments
    from pipelines.compilation import compile_pipeline

    if output.suffix not in (".yaml", ".yml"):
        raise UserError(f"{output}: Kubeflow takes a file that ends in .yaml")
    require_output_file("--output", output)
    settings = load_settings(PARAMS, changes or ())
    compile_pipeline(
        output,
        arguments(settings, Path.cwd(), lineage(Path.cwd(), settings, CLUSTER)),
        num_shards=settings.extraction.shards,
    )
    console.print(f"{escape(str(output))} is written", soft_wrap=True)


@app.command()
def sample() -> None:
    """Write the sample images and weights that data.dvc and models.dvc describe."""
    from crossfold.data.sample import write_sample

    for line in write_sample(Path.cwd()):
        console.print(escape(line), soft_wrap=True)


@app.command()
def check_data(
    folder: Annotated[Path, typer.Argument(help="A folder with a folder of images per class.")],
    page: Annotated[
        Path, typer.Option(metavar="FILE", help="Where to write the page to look at.")
    ] = Path("reports/data.html"),
) -> None:
    """Check a folder of images as the pipeline would, and say what there is to know of them."""
    from crossfold.data.folder import examine_folder, split_folder
    from crossfold.data.page import write_page
    from crossfold.settings import load_settings

    from .data_summary import progress_bar, show

    settings = load_settings(PARAMS).data
    _require_page(page)
    with progress_bar(console) as progress:
        report = examine_folder(folder, image_size=settings.image_size, progress=progress)
    problem = None
    try:
        report = split_folder(
            report,
            num_folds=settings.num_folds,
            test_fraction=settings.test_fraction,
            seed=settings.seed,
            max_skipped_fraction=settings.max_skipped_fraction,
        )
    except UserError as error:  # the page helps to mend it
        problem = error
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_page(page, report, folder, str(problem or ""))
    except OSError as error:
        raise UserError(f"--page {page}: it cannot be written: {error.strerror}") from None
    show(console, report, page)
    if problem:
        raise problem


def _require_page(page: Path) -> None:
    """Raise UserError if no page can be written there, before the images are examined for it.

    No folder is made: there is no page on a folder that cannot be examined.
    """
    try:
        if page.is_dir():
            raise UserError(
                f"--page {page}: there is a folder of this name; name a file, or a new one"
            )
        there = next(folder for folder in page.parents if folder.exists() or folder.is_symlink())
    except OSError as error:
        raise UserError(f"--page {page}: it cannot be written: {error.strerror}") from None
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--page {page}: {there} is not a folder that can be written to")


@app.command()
def clean(
    keep: Annotated[int, typer.Option(min=1, help="How many finished runs to keep.")] = 3,
) -> None:
    """Delete old runs' files under runs/; what MLflow and the kept runs use stays."""
    from crossfold.runners.local.clean import clean_runs

    console.print(clean_runs(Path.cwd(), keep=keep), soft_wrap=True)


@app.command()
def imagenet_weights() -> None:
    """Fetch torchvision's ResNet18 ImageNet weights into models/ (needs the internet)."""
    from crossfold.network.backbone import fetch_imagenet_weights

    path = fetch_imagenet_weights(Path("models"))
    console.print(
        f"{path} is written. To train with it: dvc add models, set model.weights to {path.name} "
        "and data.image_size to 224 in params.yaml, and make run",
        soft_wrap=True,
    )


@app.command()
def mlflow_ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port on this machine.")] = 5000,
) -> None:
    """Serve MLflow's pages for the local store, on this machine only."""
    from crossfold.settings import load_settings
    from crossfold.tracking.sqlite_store import update_locations

    store = load_settings(PARAMS).tracking.store
    if store:
        raise UserError(
            f"runs are tracked at {store} (params.yaml tracking.uri, or the environment variable "
            "MLFLOW_TRACKING_URI): look there"
        )
    require_free_port(port, "make mlflow-ui")
    require_local_store()
    update_locations(LOCAL_STORE)
    store_uri = f"--backend-store-uri=sqlite:///{LOCAL_STORE}"
    address = ["--host=127.0.0.1", f"--port={port}", "--workers=1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", store_uri, *address])


@app.command()
def images(
    torch: Annotated[
        Torch | None,
        typer.Option(
            help="CPU-only torch from PyTorch's index, or the package index's, with CUDA.",
            show_default="as the last time; at first cpu if PyTorch's index answers",
        ),
    ] = None,
    python_image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="The image of Python that they are built on.",
            show_default="as the last time; at first python:3.11-slim-bookworm",
        ),
    ] = None,
) -> None:
    """Build the images that the steps and MLflow's server run in, and say what they weigh."""
    from crossfold.infra.image_build import build_images

    build_images(torch, python_image, lambda line: console.print(escape(line), soft_wrap=True))


@services.command("up")
def services_up() -> None:
    """Start MLflow, PostgreSQL and an object store on this machine, and wait until they work."""
    from crossfold.infra.compose import up

    up(Path.cwd(), lambda line: console.print(escape(line), soft_wrap=True))


@services.command("down")
def services_down() -> None:
    """Stop the services; their data stays."""
    from crossfold.infra.compose import down

    down(Path.cwd())


@cluster.command("up")
def cluster_up(
    context: Context = None,
    registry: Registry = None,
    small: Annotated[
        bool,
        typer.Option("--small", help="Request few cores, as on a machine that has few."),
    ] = False,
    node_image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="The node image of a new kind cluster, as in a mirror.",
            show_default="that of kind-cluster.yaml",
        ),
    ] = None,
) -> None:
    """Bring up Kubeflow Pipelines, MLflow, PostgreSQL and MinIO, and wait until they work."""
    from crossfold.infra.cluster import KIND_CONTEXT, up

    up(
        context or KIND_CONTEXT,
        registry,
        lambda line: console.print(escape(line), soft_wrap=True),
        small=small,
        node_image=node_image,
    )


@cluster.command("down")
def cluster_down(context: Context = None) -> None:
    """Stop the kind cluster; its data stays."""
    from crossfold.infra.cluster import KIND_CONTEXT, down

    down(context or KIND_CONTEXT, lambda line: console.print(escape(line), soft_wrap=True))


@cluster.command("status")
def cluster_status(context: Context = None) -> None:
    """Say what is ready and where it is; exits with 1 if something is not ready."""
    from crossfold.infra.cluster import KIND_CONTEXT, status

    if not status(
        context or KIND_CONTEXT, lambda line: console.print(escape(line), soft_wrap=True)
    ):
        raise typer.Exit(1)


@cluster.command("env")
def cluster_env(context: Context = None) -> None:
    """Print the address and login of the cluster's MLflow, for a shell to export.

    With `eval "$(crossfold cluster env)"` models, lineage, promote, predict, serve and reproduce
    use the cluster's registry.
    """
    from crossfold.infra.cluster import KIND_CONTEXT
    from crossfold.runners.kubeflow.run import mlflow_variables

    for name, value in mlflow_variables(context or KIND_CONTEXT).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def main() -> None:
    """Run the command.

    A user's mistake ends in its message and the status 2, a step's failure or one of MLflow in 1, a
    signal in 128 and its number.
    """
    from crossfold.runners.failures import Interrupted, StepError

    ensure_user_name()
    try:
        app()
    except UserError as error:
        fail(str(error), 2)
    except StepError as error:
        fail(str(error), 1)
    except Interrupted as error:
        fail(str(error), 128 + error.signum)
    except _mlflows_error() as error:
        _fail_by_mlflow(error)


def _mlflows_error() -> "type[MlflowException] | tuple[()]":
    """Return the class of MLflow's errors; none where MLflow, slow to import, is not in use."""
    if "mlflow" not in sys.modules:
        return ()
    from mlflow.exceptions import MlflowException

    return MlflowException


def _fail_by_mlflow(error: "MlflowException") -> NoReturn:
    from crossfold.tracking.store import lost_server, refused_login

    if refused := refused_login(error):
        fail(refused, 2)
    fail(lost_server(error, "try again") or f"MLflow: {error}", 1)
