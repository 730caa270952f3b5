"""Locate the local MLflow store, and serve it to containers during a run."""

import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from tenacity import (
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_delay,
    wait_fixed,
)

from crossfold.runners.failures import StepError
from crossfold.settings import Settings
from crossfold.step.environment import for_other_programs
from crossfold.tracking.sqlite_store import SERVED_ARTIFACTS, SQLITE, artifact_folder

from .run_folders import HOME, Run, end_all

PATIENCE = 120  # seconds until the server must answer; it usually takes five


def tracking_environment(root: Path, settings: Settings) -> dict[str, str]:
    """Build the variables that tell MLflow's clients where to log."""
    local_store = f"{SQLITE}{root / HOME / 'mlflow.db'}"
    return {
        "MLFLOW_TRACKING_URI": settings.tracking.store or local_store,
        "MLFLOW_EXPERIMENT_NAME": settings.tracking.experiment,
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }


@contextmanager
def served(store_uri: str, run: Run) -> Iterator[dict[str, str]]:
    """Serve an SQLite store on loopback during the block, with a log in the run's folder.

    Yields:
        The variables that connect MLflow's clients in containers to it, artifacts included.

    Raises:
        StepError: the server does not start.
    """
    artifacts = artifact_folder(Path(store_uri.removeprefix(SQLITE)))
    port = _free_port()
    log = run.folder / "mlflow-server.log"
    stores = [f"--backend-store-uri={store_uri}", f"--artifacts-destination={artifacts}"]
    address = ["--host=127.0.0.1", f"--port={port}", "--workers=1"]
    with log.open("a") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *stores, *address],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**for_other_programs(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            start_new_session=True,  # so that Ctrl-C ends the steps first
        )
    try:
        run.process_started(server.pid)
        url = f"http://127.0.0.1:{port}"
        _wait_for(server, url, log)
        yield {"MLFLOW_TRACKING_URI": url, SERVED_ARTIFACTS: artifacts.as_uri()}
    finally:
        process = psutil.Process(server.pid)
        end_all([*process.children(recursive=True), process])
        server.wait()
        run.process_ended(server.pid)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(server: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    retrying = Retrying(
        retry=retry_if_exception_type(OSError)
        & retry_if_exception(lambda _: server.poll() is None),
        stop=stop_after_delay(PATIENCE),
        wait=wait_fixed(0.1),
        reraise=True,
    )
    try:
        retrying(_check_health, url)
    except OSError:
        raise StepError(
            f"MLflow's server for the local store did not start; its log: {log}"
        ) from None


def _check_health(url: str) -> None:
    urllib.request.urlopen(f"{url}/health", timeout=5).close()
