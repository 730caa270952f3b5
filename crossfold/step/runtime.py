"""Run a step's work with a record, an MLflow run, and one way to fail."""

import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from crossfold.errors import UserError

from .files import replaced_whole
from .full_disk import explain_full_disk

if TYPE_CHECKING:
    from crossfold.tracking.run import Run


REFUSED = 3  # the exit status after a UserError: repeating the step cannot help
RECORD = "step.json"
# The workflow controller does not repeat a step whose message contains this; see
# manifests/kubeflow/workflow-defaults.yaml.
NOT_REPEATED = "user error, not repeated: "
# Kubernetes reads this file when a container has ended, and keeps 4 KB.
TERMINATION_LOG = Path("/dev/termination-log")
ON_KUBERNETES = "CROSSFOLD_POD_NAME"  # a variable that only pods have


@dataclass
class Record:
    """A step's record, written beside its outputs.

    `iteration` is the fold, or the part of the extraction, that the step works on. Times are in
    seconds since the epoch.
    """

    step: str
    iteration: int | str | None
    run_id: str
    started: float
    ended: float | None = None
    status: str = "running"  # then: finished, refused (the user's mistake) or failed
    error: str = ""
    mlflow_run_id: str = ""

    def write(self, folder: Path) -> None:
        """Write the record to `folder`, completely or not at all."""
        with replaced_whole(folder / RECORD) as part:
            part.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """Read a step's record from `folder`."""
        return cls(**json.loads((folder / RECORD).read_text()))


@contextmanager
def step(name: str, output: str, iteration: int | str | None = None) -> Iterator["Run"]:
    """Run a step's work as one MLflow run, and write a Record beside `output`.

    A UserError, or a full disk, prints its message and ends the process with the status REFUSED.
    Any other exception propagates, so that the step's log has its traceback.
    """
    # Not at the top: kfp loads a component's imports before the step begins.
    from crossfold.tracking import run_tree, store

    folder = Path(output).parent
    record = Record(name, iteration, os.environ.get("CROSSFOLD_RUN_ID", ""), time.time())
    signal.signal(signal.SIGTERM, _stop)
    try:
        with _full_disk_refused(folder):  # MLflow's local store may be on the same disk
            record.write(folder)
            with (
                run_tree.step_run(name, iteration=iteration, params=_inputs()) as run,
                _full_disk_refused(folder),
            ):
                record.mlflow_run_id = run.id
                yield run
        record.status = "finished"
    except UserError as error:
        record.status, record.error = "refused", str(error)
        print(f"error: {error}", flush=True)
        if ON_KUBERNETES in os.environ:
            TERMINATION_LOG.write_bytes(f"{NOT_REPEATED}{error}".encode()[:4000])
        sys.exit(REFUSED)
    except BaseException as error:
        record.status = "failed"
        summary = traceback.format_exception_only(error)[-1].strip()
        record.error = store.lost_server(error) or summary
        raise
    finally:
        record.ended = time.time()
        _write_in_the_end(record, folder)


def _inputs() -> dict[str, Any]:
    """Read the step's parameters from Kubeflow's command line, without the lineage.

    A continued run may have another lineage, and MLflow accepts no second value for a parameter.
    """
    option = "--executor_input"
    if option not in sys.argv:
        return {}
    inputs = json.loads(sys.argv[sys.argv.index(option) + 1])["inputs"]
    given: dict[str, Any] = inputs.get("parameterValues", {})
    return {name: value for name, value in given.items() if name != "lineage"}


def _write_in_the_end(record: Record, folder: Path) -> None:
    """Write the record; a disk that is still full must not hide the error, and fails a success."""
    try:
        record.write(folder)
    except OSError:
        if record.status == "finished":
            raise


def _stop(signum: int, _: FrameType | None) -> None:
    """Raise an exception, so that the record and the MLflow run show that the step has ended."""
    sys.exit(128 + signum)


@contextmanager
def _full_disk_refused(folder: Path) -> Iterator[None]:
    """Turn a full disk into a UserError, and delete the step's outputs to make room."""
    try:
        yield
    except Exception as error:
        message = explain_full_disk(error, folder)
        if not message or isinstance(error, UserError):
            raise
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != RECORD:
                path.unlink()
        raise UserError(message) from None


def write_metrics(path: str, figures: dict[str, Any]) -> None:
    """Write metrics as JSON: kfp's local cache ignores an artifact without a file."""
    Path(path).write_text(json.dumps(figures, sort_keys=True))
