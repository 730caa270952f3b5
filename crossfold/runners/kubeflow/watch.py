"""Watch a run's workflow with kubectl until it ends.

Kubeflow's own list of a run's steps does not say which of them came from the cache, or where.
"""

import time
from collections import defaultdict
from collections.abc import Iterator

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from crossfold.errors import UserError
from crossfold.infra.cluster.addresses import KUBEFLOW
from crossfold.infra.cluster.kubectl import Cluster, Object
from crossfold.runners.display import Display
from crossfold.runners.failures import StepError

from . import workflow
from .pod_failure import explain_failure
from .pod_logs import Follower
from .workflow import State, Task

INTERVAL = 2  # seconds between two polls of a run
PATIENCE = 300  # seconds without a response from the cluster


class SilenceError(StepError):
    """The cluster does not respond; the run may still be going."""


def watch_run(cluster: Cluster, run_id: str, display: Display) -> list[Task]:
    """Show the run's steps until it ends, and return them.

    Raises:
        StepError: the run failed or was deleted, or the cluster stopped responding.
    """
    shown: dict[str, set[str]] = defaultdict(set)
    with Follower(cluster, KUBEFLOW, display) as follower:
        for run, pods in _looks(cluster, run_id):
            steps = workflow.tasks(run, pods)
            for task in steps:
                if task.state is State.RUNNING:
                    follower.follow(task.title, task.pod)
                if (news := _news(task)) not in shown[task.title]:
                    shown[task.title].add(news)
                    _show(task, display)
            if workflow.has_ended(run):
                break
    failed = [task for task in steps if task.state is State.FAILED]
    if workflow.phase(run) != "Succeeded":
        raise StepError(explain_failure(cluster, run, failed))
    return steps


def _looks(cluster: Cluster, run_id: str) -> Iterator[tuple[Object, list[Object]]]:
    """Poll the run's workflow and pods, and yield them; tolerate short outages."""
    where = (f"--namespace={KUBEFLOW}", f"--selector=pipeline/runid={run_id}")
    retrying = Retrying(
        retry=retry_if_exception_type(UserError),
        stop=stop_after_delay(PATIENCE),
        wait=wait_fixed(INTERVAL),
        reraise=True,
    )
    while True:
        try:
            objects = retrying(cluster.items, "workflows.argoproj.io,pods", *where)
        except UserError as error:
            raise SilenceError(
                f"no answer for {PATIENCE} s; the run may still be going: {error}"
            ) from None
        workflows = [item for item in objects if item["kind"] == "Workflow"]
        if not workflows:
            raise StepError(f"the run {run_id} was deleted")
        yield workflows[0], [item for item in objects if item["kind"] == "Pod"]
        time.sleep(INTERVAL)


def _news(task: Task) -> str:
    """Identify an event that is shown only once: a state, an attempt, a kind of trouble.

    Trouble counts by its first word: ErrImagePull and ImagePullBackOff alternate for ever.
    """
    attempt = task.pod if task.state is State.RUNNING else ""
    return f"{task.state} {attempt} {task.trouble.partition(':')[0]}"


def _show(task: Task, display: Display) -> None:
    match task.state:
        case State.WAITING if task.trouble:
            display.waits(task.title, task.trouble)
        case State.RUNNING:
            display.started(task.title, task.attempt)
        case State.DONE:
            display.finished(task.title, task.seconds)
        case State.REUSED:
            display.reused(task.title, "unchanged, from Kubeflow's cache")
        case State.FAILED:
            display.failed(task.title)
