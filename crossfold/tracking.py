"""Runs in MLflow: a parent per pipeline run, a nested run per step, one per candidate in a fold.

On Kubeflow with its MLflow plugin the platform opens the parent and the step's run and hands the
step `MLFLOW_RUN_ID`. Elsewhere this module finds or creates the same shape by the pipeline run's
id (`CROSSFOLD_RUN_ID`), so a retried step or a resumed run continues its runs.

Only `MlflowClient` is used: the fluent API keeps one global active run, which an exported
`MLFLOW_RUN_ID` overrides.
"""

import io
import json
import logging
import os
import sqlite3
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from crossfold.errors import UserError
from crossfold.step import title
from crossfold.store_location import artifact_folder, update_locations

_logger = logging.getLogger(__name__)

PARENT_TAG = "mlflow.parentRunId"
# MLflow's pages open an experiment without a kind in their view of GenAI traces.
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
LOOP = "loop"  # the kind of the run under which the iterations of a step are nested
OUTCOME_TAGS = {"crossfold.error", "crossfold.cached", "crossfold.source_run"}
SQLITE = "sqlite:///"
# What a pipeline's run has of what was found; whoever watches a cluster reads it there.
OUTCOME = ("leaderboard.json", "evaluation.json", "registration.json", "report.html")
# Set for a container: the folder, as a file: address, that the tracking server serves as its own.
SERVED_ARTIFACTS = "CROSSFOLD_SERVED_ARTIFACTS"

# What MLflow takes in one value and in one request (mlflow.utils.validation).
MAX_PARAM_LENGTH = 6000
MAX_PARAMS_PER_BATCH = 100
MAX_METRICS_PER_BATCH = 1000
MAX_ERROR_LENGTH = 2000

# How long a server may take to answer at first, seconds: before anything is begun, and in a run,
# where it has answered before and may be starting again.
PATIENCE = 5
PATIENCE_OF_STEPS = 90


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
        """Return the run that this one is nested in: for a step, the pipeline's."""
        assert self.parent_id is not None, f"run {self.id} has no parent"
        return Run(self.client, self.client.get_run(self.parent_id))

    def rename(self, name: str) -> None:
        """Give the run another name."""
        self.client.update_run(self.id, name=name)

    def finish(self) -> None:
        """End the run as finished, and the loops in it."""
        for run in _children(self.client, self.experiment_id, self.id):
            if run.data.tags.get("crossfold.kind") == LOOP:
                self.client.set_terminated(run.info.run_id, "FINISHED")
        self.client.set_terminated(self.id, "FINISHED")

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, cut to the length that MLflow takes; the same value twice is fine."""
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
        self.client.log_inputs(self.id, [DatasetInput(dataset, tags)])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags in one request."""
        self.client.log_batch(self.id, tags=[RunTag(key, value) for key, value in tags.items()])

    @contextmanager
    def child(self, name: str, tags: Mapping[str, str]) -> Iterator["Run"]:
        """Open a nested run for the block; one with these tags from an earlier try is replaced."""
        for earlier in _children(self.client, self.experiment_id, self.id):
            if tags.items() <= earlier.data.tags.items():
                self.client.delete_run(earlier.info.run_id)
        run = self.client.create_run(
            self.experiment_id, run_name=name, tags={**tags, PARENT_TAG: self.id}
        )
        child = Run(self.client, run)
        with _ended(child):
            yield child

    def _log_metrics(self, values: Sequence[tuple[str, float, int]]) -> None:
        now = _now()
        entries = [Metric(key, float(value), now, step) for key, value, step in values]
        for start in range(0, len(entries), MAX_METRICS_PER_BATCH):
            self.client.log_batch(self.id, metrics=entries[start : start + MAX_METRICS_PER_BATCH])


def _param_text(value: Any) -> str:
    """Return equal texts for equal values: Kubeflow gives a setting's keys in any order."""
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else str(value)


def parent_run(
    run_id: str,
    *,
    name: str,
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
) -> Run:
    """Open the run of the pipeline run `run_id`, or continue it when it is there.

    Raises UserError when the tracking store is not named, cannot be reached or does not fit.
    """
    client = connect()
    experiment_id = _experiment_id(client, _setting("MLFLOW_EXPERIMENT_NAME"))
    found = _find_parent(client, experiment_id, run_id)
    if found:
        _reopen(client, found)
    run = Run(client, found or _create_parent(client, experiment_id, run_id, name))
    run.set_tags(tags or {})
    run.log_params(params or {})
    return run


def find_run(run_id: str) -> Run:
    """Return the run of the pipeline run `run_id`.

    Raises UserError when the tracking store is not named, cannot be reached or has no such run.
    """
    client = connect()
    name = _setting("MLFLOW_EXPERIMENT_NAME")
    found = _find_parent(client, _experiment_id(client, name), run_id)
    if found is None:
        raise UserError(f"the experiment {name} in MLflow has no run of the pipeline run {run_id}")
    return Run(client, found)


def end_parent(run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
    """End the run of the pipeline run `run_id`, if it was opened, and the nested runs left open.

    A step that was killed could not end its own run.
    """
    client = connect()
    experiment_id = _experiment_id(client, _setting("MLFLOW_EXPERIMENT_NAME"))
    parent = _find_parent(client, experiment_id, run_id)
    if parent is None:  # it was killed before, or has another tracking store
        return
    for run in _nested(client, experiment_id, parent.info.run_id):
        if run.info.status == "RUNNING":
            is_loop = run.data.tags.get("crossfold.kind") == LOOP
            client.set_terminated(run.info.run_id, status if is_loop else "KILLED")
    client.set_terminated(parent.info.run_id, status)


@contextmanager
def step_run(
    name: str, *, iteration: int | None = None, params: Mapping[str, Any] | None = None
) -> Iterator[Run]:
    """Open the run of the step `name`, with the parameters of the step, for the block.

    The plugin's run (`MLFLOW_RUN_ID`) is used where there is one and left for the plugin to end;
    the plugin logs the parameters too.
    Raises UserError when the tracking store is not named, cannot be reached or does not fit.
    """
    _use_own_login()
    plugin_run_id = os.environ.get("MLFLOW_RUN_ID")
    client = connect(PATIENCE_OF_STEPS)
    if plugin_run_id:
        run = Run(client, _get_run(client, plugin_run_id), param_prefix="crossfold.")
        run.rename(title(name, iteration))
        run.set_tags(_step_tags(name, iteration))
        with _error_recorded(run):
            yield run
        return
    found = _find_or_create_step(client, pipeline_run_id(), name, iteration)
    _reopen(client, found)
    run = Run(client, found)
    run.log_params(params or {})
    with _ended(run):
        yield run


def _use_own_login() -> None:
    """Where Kubeflow's plugin has not said how MLflow is reached, do as the pipeline's Secret says.

    Two names for one thing, since the pod that both gave it would be refused.
    """
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        if value := os.environ.get(f"CROSSFOLD_{name}"):
            os.environ.setdefault(name, value)


def log_cached_step(
    run_id: str, *, name: str, iteration: int | None = None, source_run_id: str
) -> str:
    """Record that a step of the pipeline run `run_id` was answered from the cache.

    Returns the id of its nested run, which names the run that did the work and carries a copy of
    its parameters and metrics. A step that this very pipeline run did before it was resumed keeps
    its run.
    """
    client = connect()
    step = _find_or_create_step(client, run_id, name, iteration)
    run = Run(client, step)
    if run.id != source_run_id:
        _reopen(client, step)
        run.set_tags({"crossfold.cached": "true", "crossfold.source_run": source_run_id})
        _copy_results(source_run_id, run)
        client.set_terminated(run.id, "FINISHED")
    return run.id


def _copy_results(source_run_id: str, target: Run) -> None:
    """Copy parameters and the latest metrics; nothing is copied when the source was deleted."""
    try:
        source = target.client.get_run(source_run_id).data
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return
    target.log_params(source.params)
    target.log_metrics(source.metrics)


def name_cached_iterations(parent: Run) -> None:
    """Name the runs that Kubeflow's plugin opened for a loop's steps from the cache.

    No code of ours ran in them, so all have the task's name; their parameters tell the iteration.
    """
    for run in _nested(parent.client, parent.experiment_id, parent.id):
        tags, params = run.data.tags, run.data.params
        iteration = params.get("fold", params.get("shard"))
        if iteration is not None and not any(tag.startswith("crossfold.") for tag in tags):
            name = str(run.info.run_name).replace("-", "_")
            named = Run(parent.client, run)
            named.rename(title(name, int(float(iteration))))
            named.set_tags(_step_tags(name, int(float(iteration))) | {"crossfold.cached": "true"})


def log_fold(run: Run, results: Sequence[Mapping[str, Any]], *, params: Mapping[str, Any]) -> None:
    """Log one nested run per candidate under a fold's run.

    `results` are the leaderboard's folds, each with its `candidate`. `params` are what all share
    (architecture, device, image_size, num_epochs, batch_size, …). Every run carries the same keys,
    so that MLflow's parallel coordinates compare candidates across folds and pipeline runs; the
    learning rate of a head is "none". A candidate that diverged has a tag in place of scores.
    """
    labels = short_labels([result["candidate"]["name"] for result in results])
    for result, label in zip(results, labels, strict=True):
        candidate, fold = result["candidate"], result["fold"]
        tags = {
            "crossfold.kind": "candidate",
            "crossfold.candidate": candidate["name"],
            "crossfold.fold": str(fold),
        }
        with run.child(f"f{fold} {label}", tags) as child:
            settings = {key: value for key, value in candidate.items() if key != "name"}
            # MLflow's parallel coordinates begin with the first three parameters that differ, by
            # the alphabet: the fold is a tag alone, so that it is none of them.
            child.log_params({"learning_rate": "none", **params, "candidate": label, **settings})
            if "diverged" in result:
                child.set_tags({"crossfold.diverged": f"epoch {result['diverged']}"})
                continue
            # Before the curve: the plot shows the metric that was logged first.
            child.log_metrics({key: result[key] for key in ("macro_f1", "accuracy", "loss")})
            child.log_curve(result["history"])


def short_labels(names: Sequence[str]) -> list[str]:
    """Shorten candidates' names to the words that tell them apart, for MLflow's lists and plots.

    `head lr=0.003 wd=0.01`, `head lr=0.01 wd=0.01` and `layer4 lr=0.001 wd=0.05` become
    `head 0.003`, `head 0.01` and `layer4`. Parallel coordinates show ten characters.
    """
    words = [name.split() for name in names]
    shared = set.intersection(*map(set, words)) if len(words) > 1 else set()
    different = [[word for word in of_name if word not in shared] for of_name in words]
    return [
        _without_keys(_unique_start(of_name, different)) or name
        for of_name, name in zip(different, names, strict=True)
    ]


def _without_keys(words: Sequence[str]) -> str:
    """Leave out `lr=` and the like, but in the first word."""
    return " ".join([*words[:1], *(word.rpartition("=")[2] for word in words[1:])])


def _unique_start(words: Sequence[str], among: Sequence[Sequence[str]]) -> Sequence[str]:
    """The fewest first words that no other of the names begins with."""
    for length in range(1, len(words)):
        if sum(other[:length] == words[:length] for other in among) == 1:
            return words[:length]
    return words


def log_outcome(
    run: Run,
    *,
    leaderboard: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Log a pipeline run under its own run: settings, the chosen candidate, scores, figures.

    `settings` are params.yaml's sections; of the candidates, only the chosen one is logged. The
    run is marked as the pipeline run's, since Kubeflow's plugin may have opened it.
    """
    from crossfold import figures, metrics

    best = leaderboard["candidates"][leaderboard["best"]]
    chosen = {("candidate" if k == "name" else k): v for k, v in best["candidate"].items()}
    flat = {
        f"{section}.{key}": value
        for section, values in settings.items()
        if isinstance(values, Mapping)
        for key, value in values.items()
    }
    architecture = leaderboard["architecture"]
    run.set_tags(_parent_tags(pipeline_run_id()))
    run.log_params(
        {"learning_rate": "none", **flat, **chosen, "architecture": architecture, "device": "cpu"}
    )
    run.log_dataset("data", evaluation["data_hash"], settings["data"]["remote"])
    started = datetime.fromtimestamp(run.started / 1000)
    run.rename(run_name(started, chosen["candidate"], architecture))
    run.log_metrics(
        {f"cv_{name}": value for name, value in best["mean"].items()}
        | {f"cv_{name}_std": value for name, value in best["std"].items()}
        | {f"test_{name}": value for name, value in evaluation["metrics"].items()}
    )
    run.log_artifact(json.dumps(leaderboard), "leaderboard.json")
    run.log_artifact(json.dumps(evaluation), "evaluation.json")
    curves = {kind: metrics.Curves.from_json(c) for kind, c in evaluation["curves"].items()}
    confusion, classes = np.array(evaluation["confusion_matrix"]), evaluation["classes"]
    drawn = {
        "confusion_matrix": figures.confusion_matrix(confusion, classes),
        "pr_curves": figures.pr_curves(curves["pr"], classes),
        "roc_curves": figures.roc_curves(curves["roc"], classes),
    }
    if figures.with_epochs(dict(leaderboard)):
        drawn["loss_curves"] = figures.loss_curves(dict(leaderboard))
        drawn["score_curves"] = figures.score_curves(dict(leaderboard))
    for name, figure in drawn.items():
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=150)
        run.log_artifact(file.getvalue(), f"plots/{name}.png")


def run_name(started: datetime, *words: str) -> str:
    """Return a name such as `225025 layer4 lr=0.001` for a pipeline's run.

    MLflow's list shows some 20 characters: the time (hour, minute, second) tells runs apart.
    """
    return " ".join((f"{started:%H%M%S}", *words))


def pipeline_run_id() -> str:
    """Return the id of the pipeline run that this step is of; raises UserError without one."""
    return _setting("CROSSFOLD_RUN_ID")


def pages() -> str:
    """Return where people find MLflow's pages, or nothing if no server is known."""
    uri = os.environ.get("CROSSFOLD_MLFLOW_PAGES") or _setting("MLFLOW_TRACKING_URI")
    return _without_login(uri).rstrip("/") if uri.startswith(("http://", "https://")) else ""


def connect(patience: float = PATIENCE) -> MlflowClient:
    """Return a client of the store at MLFLOW_TRACKING_URI, looked at once per process.

    Raises UserError when the setting is missing, or the store does not fit or, if it is a server,
    has not answered within `patience` seconds.
    """
    uri = _setting("MLFLOW_TRACKING_URI")
    if uri not in _clients:
        _clients[uri] = _connect(uri, patience)
    return _clients[uri]


_clients: dict[str, MlflowClient] = {}


def _connect(uri: str, patience: float) -> MlflowClient:
    # That a new store gets its tables is no news for who starts a run.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    # MLflow repeats a failed connection for minutes: right in mid-run, wrong at the start.
    if uri.startswith(SQLITE):
        _check_sqlite(uri)
    elif uri.startswith(("http://", "https://")):
        _check_server(uri, patience)
    if folder := os.environ.get(SERVED_ARTIFACTS):
        _reach_through_server(folder)
    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except Exception as error:
        raise _unfit_store(uri, error) from error


def _reach_through_server(folder: str) -> None:
    """Let artifacts at addresses in the server's `folder` go through the server.

    A run's address in a local store is a file of the host, which a container does not see.
    """
    from mlflow.store.artifact import artifact_repository_registry
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

    def repository(uri: str, **stores: str | None) -> MlflowArtifactsRepository:
        served = "mlflow-artifacts:" + uri.removeprefix(folder)
        return MlflowArtifactsRepository(served, **stores)

    registry = artifact_repository_registry._artifact_repository_registry
    registry.register("file", repository)  # type: ignore[no-untyped-call]


def _check_sqlite(uri: str) -> None:
    path = Path(uri.removeprefix(SQLITE))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        update_locations(path)
    except (OSError, sqlite3.Error) as error:
        raise UserError(
            f"the tracking store {path} cannot be opened: {error}. It must be an "
            "SQLite file that can be written, or one that does not exist yet."
        ) from error


def _check_server(uri: str, patience: float) -> None:
    """Ask the server for its health, again and again for `patience` seconds."""
    address = _without_login(uri)
    deadline = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=3):
                return
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):  # a proxy in front of the server wants the login
                return
            reason: object = error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
        if time.monotonic() > deadline:
            break
        time.sleep(1)
    raise UserError(
        f"the tracking server {address} cannot be reached: {reason}. Start it, or set "
        "params.yaml tracking.uri (for a single step, MLFLOW_TRACKING_URI) to one that runs."
    )


def _unfit_store(uri: str, error: Exception) -> UserError:
    message = str(error)
    store = _without_login(uri)
    if "out-of-date database schema" in message or "Can't locate revision" in message:
        return UserError(
            f"the tracking store {store} was made by another version of MLflow. Back it up and run "
            f"`mlflow db upgrade {store}`; if it was made by a newer version, install that one."
        )
    return UserError(f"the tracking store {store} cannot be used: {message[:MAX_ERROR_LENGTH]}")


def _without_login(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    return scheme + separator + rest.rpartition("@")[2]


def _setting(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise UserError(
            f"the environment variable {name} is not set, so there is nowhere to track this step. "
            "`crossfold run` sets it; on a cluster MLflow was not reachable when the run was "
            "submitted, or its plugin is off."
        )
    return value


def _experiment_id(client: MlflowClient, name: str) -> str:
    try:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            return str(client.create_experiment(name, _artifact_location(), EXPERIMENT_KIND))
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS":  # another step was quicker
            return _experiment_id(client, name)
        raise _refused(error) from error
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
    """Return the folder beside an SQLite store; a server has its own place for artifacts."""
    uri = _setting("MLFLOW_TRACKING_URI")
    if not uri.startswith(SQLITE):
        return None
    return artifact_folder(Path(uri.removeprefix(SQLITE))).as_uri()


def _get_run(client: MlflowClient, run_id: str) -> MlflowRun:
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        raise _refused(error) from error


def _refused(error: MlflowException) -> Exception:
    """Return a UserError for a login that the server does not take, else the error itself."""
    said = refused_login(error)
    return UserError(said) if said else error


def refused_login(error: MlflowException) -> str:
    """Return, of an error for a login that the server does not take, what to say; else ""."""
    if error.error_code not in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return ""
    server = _without_login(_setting("MLFLOW_TRACKING_URI"))
    return (
        f"the tracking server {server} refuses this login. Set "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
    )


def _find_parent(client: MlflowClient, experiment_id: str, run_id: str) -> MlflowRun | None:
    """Return the oldest of what may be two, while steps that began together each open one."""
    found = client.search_runs(
        [experiment_id],
        f"tags.crossfold.run_id = '{run_id}' and tags.crossfold.kind = 'pipeline'",
    )
    return min(found, key=_age, default=None)


def _create_parent(client: MlflowClient, experiment_id: str, run_id: str, name: str) -> MlflowRun:
    created = client.create_run(experiment_id, run_name=name, tags=_parent_tags(run_id))
    parent = _find_parent(client, experiment_id, run_id)
    assert parent is not None
    if parent.info.run_id != created.info.run_id:  # another step was quicker
        client.delete_run(created.info.run_id)
    return parent


def _parent_tags(run_id: str) -> dict[str, str]:
    return {"crossfold.kind": "pipeline", "crossfold.run_id": run_id}


def _children(client: MlflowClient, experiment_id: str, parent_id: str) -> list[MlflowRun]:
    return list(client.search_runs([experiment_id], f"tags.{PARENT_TAG} = '{parent_id}'"))


def _nested(client: MlflowClient, experiment_id: str, parent_id: str) -> Iterator[MlflowRun]:
    """Yield the runs below a run, the innermost first."""
    for run in _children(client, experiment_id, parent_id):
        if run.data.tags.get("crossfold.kind") != "candidate":  # the innermost: spare a request
            yield from _nested(client, experiment_id, run.info.run_id)
        yield run


def _step_tags(name: str, iteration: int | None) -> dict[str, str]:
    return {"crossfold.step": name} | (
        {} if iteration is None else {"crossfold.iteration": str(iteration)}
    )


def _find_or_create_step(
    client: MlflowClient, run_id: str, name: str, iteration: int | None
) -> MlflowRun:
    tags = _step_tags(name, iteration)
    experiment_id = _experiment_id(client, _setting("MLFLOW_EXPERIMENT_NAME"))
    parent = _find_parent(client, experiment_id, run_id)
    if parent is None:
        parent = _create_parent(client, experiment_id, run_id, run_id)
    if iteration is not None:
        parent = _find_or_create_loop(client, parent, name)
    for run in _children(client, experiment_id, parent.info.run_id):
        if tags.items() <= run.data.tags.items():
            return run
    return client.create_run(
        experiment_id,
        run_name=title(name, iteration),
        tags={
            **tags,
            PARENT_TAG: parent.info.run_id,
            "crossfold.kind": "step",
            "crossfold.run_id": run_id,
        },
    )


def _find_or_create_loop(client: MlflowClient, parent: MlflowRun, name: str) -> MlflowRun:
    """Return the run under which the iterations of a step are nested."""
    experiment_id, parent_id = parent.info.experiment_id, parent.info.run_id
    tags = {"crossfold.kind": LOOP, "crossfold.loop": name, PARENT_TAG: parent_id}

    def find() -> MlflowRun | None:
        runs = _children(client, experiment_id, parent_id)
        loops = [run for run in runs if tags.items() <= run.data.tags.items()]
        return min(loops, key=_age, default=None)

    loop = find()
    if loop is None:
        created = client.create_run(experiment_id, run_name=f"{name}s", tags=tags)
        loop = find()
        assert loop is not None
        if loop.info.run_id != created.info.run_id:  # another iteration was quicker
            client.delete_run(created.info.run_id)
    _reopen(client, loop)
    return loop


def _age(run: MlflowRun) -> tuple[int, str]:
    return run.info.start_time, run.info.run_id


def _reopen(client: MlflowClient, run: MlflowRun) -> None:
    """Set a run of an earlier try back to running, without what that try said of its end."""
    if run.info.status == "RUNNING":
        return
    client.update_run(run.info.run_id, status="RUNNING")
    for tag in run.data.tags.keys() & OUTCOME_TAGS:
        client.delete_tag(run.info.run_id, tag)


@contextmanager
def _ended(run: Run) -> Iterator[None]:
    try:
        with _error_recorded(run):
            yield
    except BaseException as error:
        killed = isinstance(error, KeyboardInterrupt | SystemExit)
        with last_words():
            run.client.set_terminated(run.id, "KILLED" if killed else "FAILED")
        raise
    run.client.set_terminated(run.id, "FINISHED")


@contextmanager
def _error_recorded(run: Run) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        with last_words():
            said = str(error)[:MAX_ERROR_LENGTH] or type(error).__name__
            run.set_tags({"crossfold.error": said})
        raise


@contextmanager
def last_words() -> Iterator[None]:
    """Tell MLflow how something ended by an error, which may be that MLflow does not answer.

    So there is no waiting for it, as MLflow's client does for minutes, and no other error takes the
    first one's place. The process is about to end.
    """
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    try:
        yield
    except Exception as error:
        _logger.warning("MLflow could not be told of the end: %s", error)


def lost_server(
    error: BaseException, advice: str = "run again: no finished step is repeated"
) -> str:
    """Return, of an error for want of an answer from the tracking server, what to say; else "".

    `advice` is what to do when it is up.
    """
    if not isinstance(error, MlflowException) or not isinstance(error.__context__, OSError):
        return ""
    server = _without_login(_setting("MLFLOW_TRACKING_URI"))
    return (
        f"the tracking server {server} has given no answer, or only errors, for minutes. When it "
        f"is up, {advice}. Its last answer: {error.__context__}"
    )


def _now() -> int:
    return int(time.time() * 1000)
