"""The steps of a run, their states and their troubles, read from a workflow and its pods."""

import base64
import gzip
import io
import json

import pytest
from rich.console import Console

from crossfold.infra.cluster.kubectl import Object
from crossfold.runners.display import Display
from crossfold.runners.kubeflow.workflow import State, Task, has_ended, phase, tasks

from .recorded import recorded

FOLDS = [f"train_fold {fold}" for fold in range(3)]
AFTER = ["aggregate_cv", "train_final", "evaluate_test", "register_model"]


def states(found: list[Task]) -> dict[str, State]:
    """Return how far each step is, in the order of the steps."""
    return {task.title: task.state for task in found}


def in_order(found: dict[str, State]) -> list[tuple[str, State]]:
    return list(found.items())


def task(name: str, title: str) -> Task:
    """Return a step of a recorded run."""
    (found,) = (task for task in tasks(*recorded(name)) if task.title == title)
    return found


def test_a_finished_run_has_its_steps_in_the_order_in_which_they_began() -> None:
    reused = dict.fromkeys(["fetch_data", "extract_features"], State.REUSED)
    done = dict.fromkeys([*FOLDS, *AFTER], State.DONE)
    assert in_order(states(tasks(*recorded("finished")))) == in_order(reused | done)


def test_a_repeated_run_has_done_nothing_but_register() -> None:
    found = states(tasks(*recorded("cached")))
    assert {title for title, state in found.items() if state is not State.REUSED} == {AFTER[-1]}
    assert found[AFTER[-1]] is State.DONE
    assert len(found) == 9


def test_seconds_are_those_of_the_container_at_work() -> None:
    workflow, pods = recorded("finished")
    for pod in pods:
        pod["status"][
            "containerStatuses"
        ].reverse()  # Argo's own container first, which works longer
    found = {task.title: task.seconds for task in tasks(workflow, pods)}
    assert found["fetch_data"] == 0
    assert [found[title] for title in (*FOLDS, *AFTER)] == [17, 15, 16, 3, 25, 11, 13]


def test_a_step_that_failed_each_time_is_told_by_its_last_attempt() -> None:
    assert states(tasks(*recorded("retried"))) == {"bad 0": State.FAILED, "bad 1": State.FAILED}
    workflow, _ = recorded("retried")
    last = task("retried", "bad 0").pod.rsplit("-", 1)[1]
    (name,) = (
        node["name"] for node in workflow["status"]["nodes"].values() if node["id"].endswith(last)
    )
    assert name.endswith("iterations(0:0)(0).iteration-item(0).bad(0).executor(1)")
    assert task("retried", "bad 0").message == "main: Error (exit code 1)"


def test_a_repetition_is_told_from_the_first_attempt() -> None:
    attempts = {task.title: task.attempt for task in tasks(*recorded("finished"))}
    assert set(attempts.values()) == {1}
    assert task("retried", "bad 0").attempt == 2
    shown = io.StringIO()
    console = Console(file=shown)
    display = Display(console, verbose=False)
    display.started("bad 0", attempt=1)
    display.started("bad 0", attempt=2)
    first, second = shown.getvalue().splitlines()
    assert "attempt" not in first and second.endswith("attempt 2")


def test_a_step_that_worked_at_last_has_not_failed() -> None:
    found = task("mended", "shaky")
    assert (found.state, found.seconds, found.message) == (State.DONE, 2, "")


def test_a_step_between_two_attempts_has_not_failed() -> None:
    workflow, pods = recorded("mended")
    nodes = workflow["status"]["nodes"]
    for key, node in list(nodes.items()):
        if node["name"].endswith(".executor"):
            node["phase"] = "Running"
        elif node["name"].endswith(".executor(1)"):
            del nodes[key]
    (found,) = tasks(workflow, pods)
    assert found.state is State.WAITING


def test_a_driver_that_failed_is_told_and_what_it_kept_from_running_is_not() -> None:
    workflow, pods = recorded("driver_failed")
    found = tasks(workflow, pods)
    assert in_order(states(found)) == [
        ("fetch_data", State.DONE),
        ("extract_features", State.DONE),
        *((f"before train_fold {fold}", State.FAILED) for fold in (0, 2, 1)),
    ]
    assert [task.is_driver for task in found] == [False, False, True, True, True]
    names = {pod["metadata"]["name"] for pod in pods}
    assert {task.pod for task in found} == names and len(names) == 5


def test_a_pod_that_kubernetes_refuses_is_why_a_step_failed() -> None:
    found = task("refused", "fetch_data")
    assert (found.state, found.pod, found.seconds) == (State.FAILED, "", 0)
    assert 'is invalid: spec.containers[1].env[1].valueFrom: Invalid value: ""' in found.message


def test_a_workflow_that_argo_has_packed_says_the_same() -> None:
    workflow, pods = recorded("finished")
    nodes = json.dumps(workflow["status"].pop("nodes")).encode()
    assert tasks(workflow, pods) == []
    workflow["status"]["compressedNodes"] = base64.b64encode(gzip.compress(nodes)).decode()
    assert tasks(workflow, pods) == tasks(*recorded("finished"))


@pytest.mark.parametrize("workflow", [{}, {"status": {}}, {"status": {"phase": "Pending"}}])
def test_before_argo_has_begun_there_is_nothing_to_tell(workflow: Object) -> None:
    assert tasks(workflow, []) == []
    assert not has_ended(workflow)


@pytest.mark.parametrize(
    ("name", "word"), [("cached", "Succeeded"), ("retried", "Failed"), ("refused", "Error")]
)
def test_a_run_has_ended_when_argo_says_how(name: str, word: str) -> None:
    workflow, _ = recorded(name)
    assert phase(workflow) == word
    assert has_ended(workflow)
    assert not has_ended({"status": workflow["status"] | {"phase": "Running"}})


def begun(pod_status: Object) -> Task:
    """Return a step whose pod is in that state."""
    node = {"id": "a-1", "name": "a(0).root(0).fetch-data(0).executor(0)", "type": "Pod"}
    node |= {"phase": "Pending", "startedAt": "2026-11-23T19:32:36Z"}
    annotations = {"workflows.argoproj.io/node-id": "a-1"}
    pod = {"metadata": {"name": "a-impl-1", "annotations": annotations}, "status": pod_status}
    (found,) = tasks({"status": {"nodes": {"a-1": node}}}, [pod])
    return found


def waiting(reason: str, message: str = "") -> Object:
    """Return the status of a pod whose container waits."""
    unready = {"type": "Ready", "status": "False", "reason": "ContainersNotReady"}
    state = {"waiting": {"reason": reason} | ({"message": message} if message else {})}
    statuses = [{"name": "main", "state": state}]
    return {"phase": "Pending", "containerStatuses": statuses, "conditions": [unready]}


ROOM = "0/1 nodes are available: 1 Insufficient cpu."
UNPLACED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": ROOM}


@pytest.mark.parametrize(
    ("status", "state", "trouble"),
    [
        ({"phase": "Pending", "conditions": [UNPLACED]}, State.WAITING, f"Unschedulable: {ROOM}"),
        (waiting("ErrImagePull", "not found"), State.WAITING, "ErrImagePull: not found"),
        # On their way, which is no trouble.
        (waiting("ContainerCreating"), State.WAITING, ""),
        (waiting("PodInitializing"), State.WAITING, ""),
        ({"phase": "Pending"}, State.WAITING, ""),
        ({"phase": "Running"}, State.RUNNING, ""),
        # Ended, and Argo has not seen it yet.
        ({"phase": "Succeeded"}, State.WAITING, ""),
    ],
)
def test_a_pod_says_why_a_step_does_not_start(status: Object, state: State, trouble: str) -> None:
    found = begun(status)
    assert (found.state, found.trouble, found.pod) == (state, trouble, "a-impl-1")
