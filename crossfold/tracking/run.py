"""Log parameters, metrics, files and datasets to one MLflow run."""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient
from tenacity import Retrying, retry_if_exception_message, stop_after_attempt

from .names import MODEL_TRAINING
from .store import MAX_ERROR_LENGTH, best_effort

PARENT_TAG = "mlflow.parentRunId"
LOOP = "loop"  # the kind of the run under which the iterations of a step are nested
# What MLflow takes in one value and in one request (mlflow.utils.validation).
MAX_PARAM_LENGTH = 6000
MAX_PARAMS_PER_BATCH = 100
MAX_METRICS_PER_BATCH = 1000


class Run:
    """One run in MLflow. `parent_id` is None for the run of a pipeline.

    Kubeflow's plugin logs a task's inputs as parameters itself and loses a batch of metrics when
    it meets a parameter of the same name, so on its runs ours begin with `param_prefix`.
    """

    def __init__(self, client: MlflowClient, run: MlflowRun, param_prefix: str = "") -> None:
        self.client = client
        self.id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.started: int = run.info.start_time  # milliseconds since the epoch
        self.parent_id: str | None = run.data.tags.get(PARENT_TAG)
        self.param_prefix = param_prefix

    def parent(self) -> "Run":
        """Return the run around this one; for a step, the pipeline's."""
        assert self.parent_id is not None, f"run {self.id} has no parent"
        return Run(self.client, self.client.get_run(self.parent_id))

    def page(self, pages: str) -> str:
        """Build the address of the run's page below the address of MLflow's pages."""
        return f"{pages}/#/experiments/{self.experiment_id}/runs/{self.id}{MODEL_TRAINING}"

    def rename(self, name: str) -> None:
        """Give the run another name."""
        self.client.update_run(self.id, name=name)

    def finish(self) -> None:
        """End the run as finished, and the loops in it."""
        for run in child_runs(self.client, self.experiment_id, self.id):
            if run.data.tags.get("crossfold.kind") == LOOP:
                self.client.set_terminated(run.info.run_id, "FINISHED")
        self.client.set_terminated(self.id, "FINISHED")

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, cut to MLflow's maximum length; logging the same value twice is fine."""
        entries = [
            Param(self.param_prefix + key, _param_text(value)[:MAX_PARAM_LENGTH])
            for key, value in params.items()
        ]
        for start in range(0, len(entries), MAX_PARAMS_PER_BATCH):
            self.client.log_batch(self.id, params=entries[start : start + MAX_PARAMS_PER_BATCH])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log the numbers of one step in one request."""
        self._log_metrics([(key, value, step) for key, value in metrics.items()])

    def log_curve(self, history: Sequence[Mapping[str, float]]) -> None:
        """Log every number of every epoch, the key `epoch` as the step, in one request."""
        self._log_metrics(
            [
                (key, value, int(row["epoch"]))
                for row in history
                for key, value in row.items()
                if key != "epoch"
            ]
        )

    def log_artifact(self, content: Path | str | bytes, artifact_file: str) -> None:
        """Log a file, a text or a figure's bytes as `artifact_file`, such as `plots/roc.svg`."""
        target = PurePosixPath(artifact_file)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / target.name
            if isinstance(content, Path):
                path.symlink_to(content.resolve())
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
            folder_name = "" if target.parent == PurePosixPath() else str(target.parent)
            self.client.log_artifact(self.id, str(path), folder_name or None)

    def log_dataset(self, name: str, digest: str, source: str, context: str = "training") -> None:
        """Log a dataset as input of the run.

        `digest` is the hash in the DVC pointer (36 characters at most: `<md5>.dir` is 36), `source`
        the address it came from.
        """
        dataset = Dataset(name, digest, "dvc", json.dumps({"uri": source}))
        tags = [InputTag("mlflow.data.context", context)]
        # If two steps log a new dataset at once, MLflow refuses one, which then finds the other's.
        retrying = Retrying(
            retry=retry_if_exception_message(match="(?is).*unique constraint"),
            stop=stop_after_attempt(3),
            reraise=True,
        )
        retrying(self.client.log_inputs, self.id, [DatasetInput(dataset, tags)])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags in one request."""
        self.client.log_batch(self.id, tags=[RunTag(key, value) for key, value in tags.items()])

    @contextmanager
    def child(self, name: str, tags: Mapping[str, str]) -> Iterator["Run"]:
        """Open a nested run for the block; it replaces others with these tags.

        They are from an earlier try, or from a request whose answer was lost and that MLflow's
        client repeated.
        """
        run = self.client.create_run(
            self.experiment_id, run_name=name, tags={**tags, PARENT_TAG: self.id}
        )
        for other in child_runs(self.client, self.experiment_id, self.id):
            if other.info.run_id != run.info.run_id and tags.items() <= other.data.tags.items():
                self.client.delete_run(other.info.run_id)
        child = Run(self.client, run)
        with ending(child):
            yield child

    def _log_metrics(self, values: Sequence[tuple[str, float, int]]) -> None:
        now = _now()
        entries = [Metric(key, float(value), now, step) for key, value, step in values]
        for start in range(0, len(entries), MAX_METRICS_PER_BATCH):
            self.client.log_batch(self.id, metrics=entries[start : start + MAX_METRICS_PER_BATCH])


def _param_text(value: Any) -> str:
    """Format equal values as equal texts: Kubeflow gives a setting's keys in any order."""
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else str(value)


def child_runs(client: MlflowClient, experiment_id: str, parent_id: str) -> list[MlflowRun]:
    """List the runs directly below a run."""
    return list(client.search_runs([experiment_id], f"tags.{PARENT_TAG} = '{parent_id}'"))


@contextmanager
def ending(run: Run) -> Iterator[None]:
    """End the run with the block, as finished, failed or killed."""
    try:
        with error_recorded(run):
            yield
    except BaseException as error:
        killed = isinstance(error, KeyboardInterrupt | SystemExit)
        with best_effort():
            run.client.set_terminated(run.id, "KILLED" if killed else "FAILED")
        raise
    run.client.set_terminated(run.id, "FINISHED")


@contextmanager
def error_recorded(run: Run) -> Iterator[None]:
    """Record the block's error, if it ends with one, as a tag of the run."""
    try:
        yield
    except Exception as error:
        with best_effort():
            message = str(error)[:MAX_ERROR_LENGTH] or type(error).__name__
            run.set_tags({"crossfold.error": message})
        raise


def _now() -> int:
    return int(time.time() * 1000)
