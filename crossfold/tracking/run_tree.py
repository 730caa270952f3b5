"""Find, open, nest and end MLflow runs: a parent per pipeline run, a nested run per step.

On Kubeflow with its MLflow plugin the platform opens the parent and the step's run and hands the
step `MLFLOW_RUN_ID`. Elsewhere this module finds or creates the same shape by the pipeline run's
id (`CROSSFOLD_RUN_ID`), so a retried step or a resumed run continues its runs.

Only `MlflowClient` is used: the fluent API keeps one global active run, which an exported
`MLFLOW_RUN_ID` overrides.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from tenacity import (
    RetryError,
    Retrying,
    TryAgain,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    wait_fixed,
    wait_random,
)

from crossfold.errors import UserError

from .names import iteration as iteration_of
from .names import title
from .run import LOOP, PARENT_TAG, Run, child_runs, ending, error_recorded
from .store import (
    connect,
    experiment_id_of,
    get_run,
    pipeline_run_id,
    required_variable,
)

OUTCOME_TAGS = {"crossfold.error", "crossfold.cached", "crossfold.source_run"}
# The artifacts of a pipeline's run that hold its results; a cluster's watcher reads them.
OUTCOME = (
    "leaderboard.json",
    "evaluation.json",
    "diagnosis.json",
    "registration.json",
    "report.html",
)
PATIENCE_OF_STEPS = 90


def parent_run(
    run_id: str,
    *,
    name: str,
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
) -> Run:
    """Open the run of the pipeline run `run_id`, or continue it if it exists.

    Raises UserError when the tracking store is not named, cannot be reached or does not fit.
    """
    client = connect()
    experiment_id = experiment_id_of(client, required_variable("MLFLOW_EXPERIMENT_NAME"))
    found = _find_or_create_parent(client, experiment_id, run_id, name)
    _reopen(client, found)
    run = Run(client, found)
    run.set_tags(tags or {})
    run.log_params(params or {})
    return run


def find_run(run_id: str) -> Run:
    """Find the run of the pipeline run `run_id`.

    Raises UserError when the tracking store is not named, cannot be reached or has no such run.
    """
    client = connect()
    name = required_variable("MLFLOW_EXPERIMENT_NAME")
    found = _find_parent(client, experiment_id_of(client, name), run_id)
    if found is None:
        raise UserError(f"the experiment {name} in MLflow has no run of the pipeline run {run_id}")
    return Run(client, found)


def end_parent(run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
    """End the run of the pipeline run `run_id`, if it was opened, and the nested runs left open.

    A step that was killed could not end its own run.
    """
    client = connect()
    experiment_id = experiment_id_of(client, required_variable("MLFLOW_EXPERIMENT_NAME"))
    parent = _find_parent(client, experiment_id, run_id)
    if parent is None:  # it was killed before, or has another tracking store
        return
    for run in _left_open(client, experiment_id, parent.info.run_id):
        is_loop = run.data.tags.get("crossfold.kind") == LOOP
        client.set_terminated(run.info.run_id, status if is_loop else "KILLED")
    client.set_terminated(parent.info.run_id, status)


@contextmanager
def step_run(
    name: str, *, iteration: int | str | None = None, params: Mapping[str, Any] | None = None
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
        run = Run(client, get_run(client, plugin_run_id), param_prefix="crossfold.")
        run.rename(title(name, iteration))
        run.set_tags(_step_tags(name, iteration))
        with error_recorded(run):
            yield run
        return
    found = _find_or_create_step(client, pipeline_run_id(), name, iteration)
    _reopen(client, found)
    run = Run(client, found)
    run.log_params(params or {})
    with ending(run):
        yield run


def _use_own_login() -> None:
    """Use MLflow's address from the pipeline's Secret, if Kubeflow's plugin gave none.

    Two names for one thing, since the pod that both gave it would be refused.
    """
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        if value := os.environ.get(f"CROSSFOLD_{name}"):
            os.environ.setdefault(name, value)


class CachedStep(NamedTuple):
    """A step that was answered from the cache; `source_run_id` is the run that did the work."""

    name: str
    iteration: int | str | None
    source_run_id: str


def log_cached_steps(run_id: str, steps: Sequence[CachedStep]) -> None:
    """Record the steps of the pipeline run `run_id` that were answered from the cache.

    Each gets a nested run, which names the run that did the work and carries a copy of its
    parameters and metrics. A step that this very pipeline run did before it was resumed keeps its
    run.
    """
    if not steps:
        return
    client = connect()
    experiment_id = experiment_id_of(client, required_variable("MLFLOW_EXPERIMENT_NAME"))
    parent = _find_or_create_parent(client, experiment_id, run_id, run_id)
    loops: dict[str, MlflowRun] = {}
    existing: dict[str, list[MlflowRun]] = {}  # one look around, for all steps
    for step in steps:
        around = parent
        if isinstance(step.iteration, int):
            if step.name not in loops:
                loops[step.name] = _find_or_create_loop(client, parent, step.name)
            around = loops[step.name]
        if around.info.run_id not in existing:
            existing[around.info.run_id] = child_runs(client, experiment_id, around.info.run_id)
        _log_cached_step(client, run_id, around, existing[around.info.run_id], step)


def _log_cached_step(
    client: MlflowClient,
    run_id: str,
    around: MlflowRun,
    existing: Sequence[MlflowRun],
    step: CachedStep,
) -> None:
    cached = {"crossfold.cached": "true", "crossfold.source_run": step.source_run_id}
    found = _find_step(existing, step.name, step.iteration)
    if found is None:
        found = _create_step(client, run_id, around, step.name, step.iteration, cached)
    elif found.info.run_id == step.source_run_id:
        return
    else:
        _reopen(client, found)
        Run(client, found).set_tags(cached)
    _copy_results(step.source_run_id, Run(client, found))
    client.set_terminated(found.info.run_id, "FINISHED")


def _copy_results(source_run_id: str, target: Run) -> None:
    """Copy parameters and the latest metrics, unless the source was deleted."""
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
    Without the plugin there are none.
    """
    if "MLFLOW_RUN_ID" not in os.environ:
        return
    for run in _nested(parent.client, parent.experiment_id, parent.id):
        tags, iteration = run.data.tags, iteration_of(run.data.params)
        if iteration is not None and not any(tag.startswith("crossfold.") for tag in tags):
            name = str(run.info.run_name).replace("-", "_")
            named = Run(parent.client, run)
            named.rename(title(name, iteration))
            named.set_tags(_step_tags(name, iteration) | {"crossfold.cached": "true"})


def _find_parent(client: MlflowClient, experiment_id: str, run_id: str) -> MlflowRun | None:
    return _find_one(lambda: _parents(client, experiment_id, run_id))


def _parents(client: MlflowClient, experiment_id: str, run_id: str) -> list[MlflowRun]:
    query = f"tags.crossfold.run_id = '{run_id}' and tags.crossfold.kind = 'pipeline'"
    return list(client.search_runs([experiment_id], query))


def _find_or_create_parent(
    client: MlflowClient, experiment_id: str, run_id: str, name: str
) -> MlflowRun:
    tags = parent_tags(run_id)
    return _find_or_create(
        client,
        lambda: _parents(client, experiment_id, run_id),
        lambda: client.create_run(experiment_id, run_name=name, tags=tags),
    )


def _find_one(find: Callable[[], list[MlflowRun]]) -> MlflowRun | None:
    """Find a run; while there are several, wait for their processes to delete all except one."""
    retrying = Retrying(
        retry=retry_if_result(lambda runs: len(runs) > 1),
        stop=stop_after_attempt(30),
        wait=wait_fixed(0.1),
    )
    try:
        runs = retrying(find)
    except RetryError as error:
        runs = error.last_attempt.result()
    return min(runs, key=_age, default=None)


def _find_or_create(
    client: MlflowClient, find: Callable[[], list[MlflowRun]], create: Callable[[], MlflowRun]
) -> MlflowRun:
    """Find the only run of its kind or create it, though several processes may try at once.

    MLflow has no such operation. A process that sees another's run beside its new one deletes the
    new one and looks again. Age can't decide which one stays: an older run may appear later. A
    single process may see two as well: MLflow's client repeats a request whose answer was lost.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(TryAgain),
        wait=wait_random(0, 1),  # so that two processes that saw each other don't meet again
    )
    return retrying(lambda: _find_one(find) or _create_only(client, find, create))


def _create_only(
    client: MlflowClient, find: Callable[[], list[MlflowRun]], create: Callable[[], MlflowRun]
) -> MlflowRun:
    created = create()
    if [run.info.run_id for run in find()] == [created.info.run_id]:
        return created
    client.delete_run(created.info.run_id)
    raise TryAgain


def parent_tags(run_id: str) -> dict[str, str]:
    """Build the tags that identify a pipeline run's MLflow run."""
    return {"crossfold.kind": "pipeline", "crossfold.run_id": run_id}


def _nested(client: MlflowClient, experiment_id: str, parent_id: str) -> Iterator[MlflowRun]:
    """Yield the runs below a run, the innermost first."""
    for run in child_runs(client, experiment_id, parent_id):
        if run.data.tags.get("crossfold.kind") != "candidate":  # the innermost: spare a request
            yield from _nested(client, experiment_id, run.info.run_id)
        yield run


def _left_open(client: MlflowClient, experiment_id: str, parent_id: str) -> Iterator[MlflowRun]:
    """Yield the running runs below a run, the innermost first; a finished one has none."""
    for run in child_runs(client, experiment_id, parent_id):
        if run.info.status != "FINISHED":
            yield from _left_open(client, experiment_id, run.info.run_id)
        if run.info.status == "RUNNING":
            yield run


def _step_tags(name: str, iteration: int | str | None) -> dict[str, str]:
    return {"crossfold.step": name} | (
        {} if iteration is None else {"crossfold.iteration": str(iteration)}
    )


def _find_or_create_step(
    client: MlflowClient, run_id: str, name: str, iteration: int | str | None
) -> MlflowRun:
    experiment_id = experiment_id_of(client, required_variable("MLFLOW_EXPERIMENT_NAME"))
    parent = _find_or_create_parent(client, experiment_id, run_id, run_id)
    if isinstance(iteration, int):  # a fold; parts are few and have names
        parent = _find_or_create_loop(client, parent, name)
    tags = _step_tags(name, iteration)

    def find() -> list[MlflowRun]:
        siblings = child_runs(client, experiment_id, parent.info.run_id)
        return [run for run in siblings if tags.items() <= run.data.tags.items()]

    return _find_or_create(
        client, find, lambda: _create_step(client, run_id, parent, name, iteration)
    )


def _find_step(
    runs: Iterable[MlflowRun], name: str, iteration: int | str | None
) -> MlflowRun | None:
    tags = _step_tags(name, iteration)
    return next((run for run in runs if tags.items() <= run.data.tags.items()), None)


def _create_step(
    client: MlflowClient,
    run_id: str,
    around: MlflowRun,
    name: str,
    iteration: int | str | None,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> MlflowRun:
    return client.create_run(
        around.info.experiment_id,
        run_name=title(name, iteration),
        tags={
            **_step_tags(name, iteration),
            PARENT_TAG: around.info.run_id,
            "crossfold.kind": "step",
            "crossfold.run_id": run_id,
            **tags,
        },
    )


def _find_or_create_loop(client: MlflowClient, parent: MlflowRun, name: str) -> MlflowRun:
    """Find or create the run that groups the iterations of a step."""
    experiment_id, parent_id = parent.info.experiment_id, parent.info.run_id
    tags = {"crossfold.kind": LOOP, "crossfold.loop": name, PARENT_TAG: parent_id}

    def find() -> list[MlflowRun]:
        runs = child_runs(client, experiment_id, parent_id)
        return [run for run in runs if tags.items() <= run.data.tags.items()]

    def create() -> MlflowRun:
        plural = f"{name.removesuffix('s')}s"
        return client.create_run(experiment_id, run_name=plural, tags=tags)

    loop = _find_or_create(client, find, create)
    _reopen(client, loop)
    return loop


def _age(run: MlflowRun) -> tuple[int, str]:
    return run.info.start_time, run.info.run_id


def _reopen(client: MlflowClient, run: MlflowRun) -> None:
    """Set a run of an earlier try back to running, and clear its recorded error."""
    if run.info.status == "RUNNING":
        return
    client.update_run(run.info.run_id, status="RUNNING")
    for tag in run.data.tags.keys() & OUTCOME_TAGS:
        client.delete_tag(run.info.run_id, tag)
