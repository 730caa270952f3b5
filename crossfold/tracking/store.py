"""Connect to MLflow's tracking store, and explain why it does not answer."""

import logging
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError

from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from crossfold.errors import UserError

from .sqlite_store import SERVED_ARTIFACTS, SQLITE, artifact_folder, prepare_store

_logger = logging.getLogger(__name__)
# MLflow's pages open an experiment without a kind in their view of GenAI traces.
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
MAX_ERROR_LENGTH = 2000
# How long a server may take to answer at first, seconds: before anything is begun, and in a run,
# where it has answered before and may be starting again.
PATIENCE = 5


def pipeline_run_id() -> str:
    """Return the id of this step's pipeline run; raise UserError without one."""
    return required_variable("CROSSFOLD_RUN_ID")


def pages() -> str:
    """Return the address of MLflow's pages, or "" if no server is known."""
    uri = os.environ.get("CROSSFOLD_MLFLOW_PAGES") or required_variable("MLFLOW_TRACKING_URI")
    return without_login(uri).rstrip("/") if uri.startswith(("http://", "https://")) else ""


def connect(patience: float = PATIENCE) -> MlflowClient:
    """Connect to the store at MLFLOW_TRACKING_URI, and check it once per process.

    Raises UserError when the setting is missing, or the store does not fit or, if it is a server,
    has not answered within `patience` seconds.
    """
    uri = required_variable("MLFLOW_TRACKING_URI")
    if uri not in _clients:
        _clients[uri] = _connect(uri, patience)
    return _clients[uri]


_clients: dict[str, MlflowClient] = {}


def _connect(uri: str, patience: float) -> MlflowClient:
    # Users need not read that MLflow creates the tables of a new store.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    # MLflow repeats a failed connection for minutes: right in mid-run, wrong at the start.
    if uri.startswith(("http://", "https://")):
        _check_server(uri, patience)
    if folder := os.environ.get(SERVED_ARTIFACTS):
        _reach_through_server(folder)
    try:
        if uri.startswith(SQLITE):
            prepare_store(Path(uri.removeprefix(SQLITE)))
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except UserError:
        raise
    except Exception as error:
        raise _unfit_store(uri, error) from error


def _reach_through_server(folder: str) -> None:
    """Route artifacts with addresses in the server's `folder` through the server.

    A run's address in a local store is a file of the host, which a container does not see.
    """
    from mlflow.store.artifact import artifact_repository_registry
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

    def repository(uri: str, **stores: str | None) -> MlflowArtifactsRepository:
        served = "mlflow-artifacts:" + uri.removeprefix(folder)
        return MlflowArtifactsRepository(served, **stores)

    registry = artifact_repository_registry._artifact_repository_registry
    registry.register("file", repository)  # type: ignore[no-untyped-call]


def _check_server(uri: str, patience: float) -> None:
    """Check the server's health, and retry for `patience` seconds."""
    address = without_login(uri)
    retrying = Retrying(
        retry=retry_if_exception_type((OSError, ValueError)),
        stop=stop_after_delay(patience),
        wait=wait_fixed(1),
        reraise=True,
    )
    try:
        retrying(_request_health, address)
    except (OSError, ValueError) as error:
        reason = error if isinstance(error, HTTPError) else getattr(error, "reason", error)
        raise UserError(
            f"the tracking server {address} cannot be reached: {reason}. Start it, or set "
            "params.yaml tracking.uri (for a single step, MLFLOW_TRACKING_URI) to a running server."
        ) from error


def _request_health(address: str) -> None:
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=3):
            return
    except HTTPError as error:
        if error.code not in (401, 403):  # these are from a proxy that wants the login
            raise


def _unfit_store(uri: str, error: Exception) -> UserError:
    message = str(error)
    store = without_login(uri)
    if "out-of-date database schema" in message or "Can't locate revision" in message:
        return UserError(
            f"the tracking store {store} was made by another version of MLflow. Back it up and run "
            f"`mlflow db upgrade {store}`; if it was made by a newer version, install that one."
        )
    reason = message.splitlines()[0][:MAX_ERROR_LENGTH]  # then comes the SQL
    return UserError(f"the tracking store {store} cannot be used: {reason}")


def without_login(uri: str) -> str:
    """Return an address without user name and password."""
    scheme, separator, rest = uri.partition("://")
    return scheme + separator + rest.rpartition("@")[2]


def required_variable(name: str) -> str:
    """Return an environment variable; raise UserError if it is not set."""
    value = os.environ.get(name)
    if not value:
        raise UserError(
            f"the environment variable {name} is not set, so there is nowhere to track this step. "
            "`crossfold run` sets it; on a cluster MLflow was not reachable when the run was "
            "submitted, or its plugin is off."
        )
    return value


def experiment_id_of(client: MlflowClient, name: str) -> str:
    """Find or create an experiment.

    Raises:
        UserError: it was deleted, or the server refuses the login.
    """
    try:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            return str(client.create_experiment(name, _artifact_location(), EXPERIMENT_KIND))
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS":  # another step was quicker
            return experiment_id_of(client, name)
        raise explained(error) from error
    if experiment.lifecycle_stage == "deleted":
        raise UserError(
            f"the MLflow experiment {name} was deleted. Restore it with `mlflow experiments "
            f"restore --experiment-id {experiment.experiment_id}`, or choose another name in "
            "params.yaml."
        )
    for key, value in EXPERIMENT_KIND.items():
        if key not in experiment.tags:  # Kubeflow's plugin may have created it
            client.set_experiment_tag(experiment.experiment_id, key, value)
    return str(experiment.experiment_id)


def _artifact_location() -> str | None:
    """Return the folder beside an SQLite store; a server chooses its own artifact location."""
    uri = required_variable("MLFLOW_TRACKING_URI")
    if not uri.startswith(SQLITE):
        return None
    return artifact_folder(Path(uri.removeprefix(SQLITE))).as_uri()


def get_run(client: MlflowClient, run_id: str) -> MlflowRun:
    """Fetch a run; raise UserError if the server refuses the login."""
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        raise explained(error) from error


def explained(error: MlflowException) -> Exception:
    """Turn a refused login into a UserError; return any other error unchanged."""
    message = refused_login(error)
    return UserError(message) if message else error


def refused_login(error: MlflowException) -> str:
    """Explain a refused login; return "" for any other error."""
    if error.error_code not in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return ""
    server = without_login(required_variable("MLFLOW_TRACKING_URI"))
    return (
        f"the tracking server {server} refuses this login. Set "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
    )


@contextmanager
def best_effort() -> Iterator[None]:
    """Let the block report the end of a run to MLflow in one short attempt, and ignore a failure.

    The process is about to end: MLflow's client would retry for minutes, and its error would hide
    the first one.
    """
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    try:
        yield
    except Exception as error:
        _logger.warning("the end of the run could not be reported to MLflow: %s", error)


def lost_server(
    error: BaseException, advice: str = "run again: no finished step is repeated"
) -> str:
    """Explain a tracking server that does not answer; return "" for any other error.

    `advice` is what to do when it is up.
    """
    if not isinstance(error, MlflowException) or not isinstance(error.__context__, OSError):
        return ""
    server = without_login(required_variable("MLFLOW_TRACKING_URI"))
    return (
        f"the tracking server {server} has not answered for minutes, or only with errors. When it "
        f"is up, {advice}. Its last answer: {error.__context__}"
    )
