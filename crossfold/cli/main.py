"""The `crossfold` command."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import typer

from crossfold.errors import UserError
from crossfold.step.user import ensure_user_name

from . import data, platform, predict, registry, run
from .console import fail

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
# In the order of `crossfold --help`.
COMMANDS: dict[str, Callable[..., None]] = {
    "predict": predict.predict,
    "serve": predict.serve,
    "models": registry.models,
    "lineage": registry.lineage,
    "promote": registry.promote,
    "rollback": registry.rollback,
    "reproduce": registry.reproduce,
    "run": run.run,
    "schedule": run.schedule,
    "compile": run.compile_,
    "sample": data.sample,
    "check-data": data.check_data,
    "clean": run.clean,
    "imagenet-weights": data.imagenet_weights,
    "mlflow-ui": platform.mlflow_ui,
    "images": platform.images,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(platform.services, name="services")
app.add_typer(platform.cluster, name="cluster")


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
