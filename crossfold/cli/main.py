"""The `crossfold` command."""

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from crossfold.errors import UserError
from crossfold.step.full_disk import explain_full_disk
from crossfold.step.user import ensure_user_name

from . import backup, clean_mlflow, data, infra, leakage, review, run
from .console import fail
from .prediction import predict
from .versions import registry, signing

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException

# Commands import heavy libraries inside their bodies, so that `crossfold --help` stays fast.

app = typer.Typer(
    help="Train an image classifier from a folder of labelled images: cross-validated, tracked, "
    "reproducible, registered.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the imports for its frames would take a third of `crossfold --help`
)
# In the order of `crossfold --help`.
COMMANDS: dict[str, Callable[..., None]] = {
    "predict": predict.predict,
    "serve": predict.serve,
    "models": registry.models,
    "lineage": registry.lineage,
    "promote": registry.promote,
    "rollback": registry.rollback,
    "sign": signing.sign,
    "verify": signing.verify,
    "reproduce": registry.reproduce,
    "run": run.run,
    "schedule": run.schedule,
    "compile": run.compile_,
    "sample": data.sample,
    "check-data": data.check_data,
    "check-leakage": leakage.check_leakage,
    "review-labels": review.review_labels,
    "clean": run.clean,
    "clean-mlflow": clean_mlflow.clean_mlflow,
    "backup": backup.backup,
    "restore": backup.restore,
    "mlflow-ui": infra.mlflow_ui,
    "images": infra.images,
}
# What the user can mend about a file or its disk.
_OF_THE_DISK = (
    *(errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM),
    *(errno.EROFS, errno.ENOSPC, errno.EDQUOT),
)
for name, command in COMMANDS.items():
    app.command(name)(command)
GROUPS = {"weights": data.weights, "services": infra.services, "cluster": infra.cluster}
for name, group in GROUPS.items():
    app.add_typer(group, name=name, short_help=group.info.help)
# Given as the short help, a command's first line is wrapped in lists of commands, not cut off.
for group in (app, *GROUPS.values()):
    for registered in group.registered_commands:
        registered.short_help = str(registered.callback.__doc__).splitlines()[0]


def main() -> None:
    """Run the command line and turn known errors into messages and exit statuses.

    Exits with 2 for a user's mistake, 1 for a failed step or an MLflow error, and 128 plus the
    signal's number for a signal.
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
    except OSError as error:
        if full := explain_full_disk(error, Path.cwd()):
            fail(full, 2)
        path = error.filename2 or error.filename  # after a failed replacement, its target
        if path is None or error.errno not in _OF_THE_DISK:  # not about a file, so a bug
            raise
        fail(f"{path}: {error.strerror}", 2)
    except _mlflows_error() as error:
        _fail_by_mlflow(error)


def _mlflows_error() -> "type[MlflowException] | tuple[()]":
    """Look up MLflow's exception class without importing MLflow, which is slow.

    Returns:
        The class, or an empty tuple (which catches nothing) if MLflow isn't imported.
    """
    if "mlflow" not in sys.modules:
        return ()
    from mlflow.exceptions import MlflowException

    return MlflowException


def _fail_by_mlflow(error: "MlflowException") -> NoReturn:
    from crossfold.tracking.store import lost_server, refused_login

    if refused := refused_login(error):
        fail(refused, 2)
    fail(lost_server(error, "try again") or f"MLflow: {error}", 1)
