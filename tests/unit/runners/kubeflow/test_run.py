"""What a run on a cluster says of its steps and of a failure, and mistakes found before it.

The workflows and pods in data/ are those of Kubeflow Pipelines 2.17.0 with Argo 4.0.5, reduced to
what is read of them and to three folds; so are the lines of logs here.
"""

import base64
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from crossfold.cli import main
from crossfold.infra.cluster.kubectl import Cluster, Object
from crossfold.runners.display import Display
from crossfold.runners.kubeflow.failure import LAST_LINES, explain_failure
from crossfold.runners.kubeflow.pod_logs import Follower
from crossfold.runners.kubeflow.workflow import State, Task, has_ended, phase, tasks

PROJECT = Path(__file__).parents[4]
DATA = Path(__file__).parent / "workflows"
FOLDS = [f"train_fold {fold}" for fold in range(3)]
AFTER = ["aggregate_cv", "train_final", "evaluate_test", "register_model"]


def recorded(name: str) -> tuple[Object, list[Object]]:
    """Return a workflow and its pods."""
    found = json.loads((DATA / f"{name}.json").read_text())
    return found["workflow"], found["pods"]


def states(found: list[Task]) -> dict[str, State]:
    """Return how far each step is, in the order of the steps."""
    return {task.title: task.state for task in found}


def in_order(found: dict[str, State]) -> list[tuple[str, State]]:
    return list(found.items())


def task(name: str, title: str) -> Task:
    """Return a step of a recorded run."""
    (found,) = (task for task in tasks(*recorded(name)) if task.title == title)
    return found


# What a workflow says


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
    console = Console(file=io.StringIO())
    display = Display(console, verbose=False)
    display.started("bad 0", attempt=1)
    display.started("bad 0", attempt=2)
    first, second = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
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


# What is shown of a failure


BEGUN = """\
time=2026-11-23T19:33:04.203Z level=INFO msg="capturing logs" argo=true
I1123 19:33:04.236005      17 main.go:67] Setting log level to: '1'
[KFP Executor 2026-11-23 19:33:04,342 INFO]: Got executor_input:
{
    "inputs": {
        "parameterValues": {
            "after": "x"
        }
    }
}
"""
LOGGED = "[KFP Executor 2026-11-23 19:33:04,355 INFO]: Wrote executor output file\n"
ENDED = """\
E1123 19:33:04.355583      17 launcher_v2.go:449] Component failed to execute successfully: exit \
status 1
F1123 19:33:04.489966      17 main.go:59] failed to execute component: exit status 1
time=2026-11-23T19:33:05.205Z level=INFO msg="sub-process exited" argo=true error="exit status 1"
Error: exit status 1
"""
NOT_KEPT = (
    "F1126 12:39:03.244983      15 main.go:59] failed to execute component: failed to upload "
    'output artifact "examples": api error AccessDenied: no'
)
KUBEFLOW_ENDED = f"""\
[KFP Executor 2026-11-26 12:39:02,539 INFO]: Wrote executor output file
I1126 12:39:03.142960      15 launcher_v2.go:1230] ExecutorOutput: {{
  "artifacts": {{
    "examples": {{}}
  }}
}}
I1126 12:39:03.143354      15 launcher_v2.go:867] Executing uploadOutputArtifacts attempt: 1
W1126 12:39:03.174179      15 launcher_v2.go:876] Failed to upload output artifacts: no
{NOT_KEPT}
Error: exit status 1
"""
DRIVER = """\
  "imagePullPolicy": "IfNotPresent",
I1123 19:43:34.920756      15 cache.go:89] Connecting to cache endpoint ml-pipeline:8887
F1123 19:43:35.158406      15 main.go:127] KFP driver: driver.Container(taskName="train-fold") \
failed: failed to resolve inputs
time=2026-11-23T19:43:35.861Z level=ERROR msg="cannot save parameter, does not exist" argo=true
Error: exit status 1
"""
COMMAND = "kubectl --context team logs a-1 --namespace=kubeflow --container=main"


def complaint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, failed: Task) -> list[str]:
    """Return the message on a step that failed, when kubectl prints that log."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f"#!/bin/sh\ncat {tmp_path}/log\n")
    kubectl.chmod(0o755)
    (tmp_path / "log").write_text(log)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return explain_failure(Cluster("team"), {"status": {"phase": "Failed"}}, [failed]).splitlines()


@pytest.mark.parametrize(
    ("log", "is_driver", "shown"),
    [
        # Kubeflow's inputs, as the step's own words, are JSON, which ends in the same way.
        (f"{BEGUN}{{\n}}\n{LOGGED}why\n{ENDED}", False, ["{", "}", "why"]),
        (ENDED, False, []),
        # The step has done its work, and Kubeflow could not keep it.
        (f"{BEGUN}progress 9/9 images\ndone\n{KUBEFLOW_ENDED}", False, ["done", NOT_KEPT]),
        (DRIVER, True, [DRIVER.splitlines()[2]]),
    ],
)
def test_of_a_log_only_what_says_why_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, is_driver: bool, shown: list[str]
) -> None:
    failed = Task("train_fold 0", State.FAILED, pod="a-1", message="code 1", is_driver=is_driver)
    assert complaint(tmp_path, monkeypatch, log, failed) == [
        "train_fold 0: code 1",
        *(f"  {line}" for line in shown),
        f"The step's whole log: {COMMAND}",
    ]


def test_of_a_long_log_the_last_lines_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = "".join(f"line {number}\n" for number in range(100))
    failed = Task("fetch_data", State.FAILED, pod="a-1")
    said = complaint(tmp_path, monkeypatch, f"{BEGUN}{log}{ENDED}", failed)
    assert said[1:-1] == [f"  line {number}" for number in range(100 - LAST_LINES, 100)]


def test_of_a_users_mistake_the_message_alone_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = f"{BEGUN}looking\nerror: models.dvc has no file 'none.pth'\n{ENDED}"
    failed = Task("fetch_data", State.FAILED, pod="a-1", message="main: Error (exit code 3)")
    assert complaint(tmp_path, monkeypatch, log, failed) == [
        "fetch_data: models.dvc has no file 'none.pth'",
        f"The step's whole log: {COMMAND}",
    ]


def test_of_a_failure_without_a_pod_argos_message_is_shown() -> None:
    workflow, pods = recorded("refused")
    (said,) = explain_failure(Cluster("team"), workflow, tasks(workflow, pods)).splitlines()
    assert said.startswith('fetch_data: Pod "crossfold-zqx8h-')


def test_a_run_that_ended_without_a_failed_step_says_how() -> None:
    status = {"phase": "Failed", "message": "Stopped with strategy 'Terminate'"}
    said = explain_failure(Cluster("team"), {"status": status}, [])
    assert said == "the run ended as Failed: Stopped with strategy 'Terminate'"


def test_a_run_that_was_terminated_on_kubeflows_page_is_told() -> None:
    found = {"spec": {"activeDeadlineSeconds": 0}, "status": {"phase": "Failed"}}
    failed = Task("train_fold 0", State.FAILED, pod="a-1", message="pod deleted")
    assert explain_failure(Cluster("team"), found, [failed]) == "the run was terminated"


def test_the_clusters_mlflow_is_exported_for_the_commands_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = {
        "MLFLOW_TRACKING_URI": "http://mlflow.mlflow.svc.cluster.local:5000",
        "MLFLOW_TRACKING_USERNAME": "pipeline",
        "MLFLOW_TRACKING_PASSWORD": "it's",
        "MLFLOW_PAGES": "http://localhost:5001",
    }
    data = {name: base64.b64encode(value.encode()).decode() for name, value in login.items()}
    (tmp_path / "secret").write_text(json.dumps({"data": data}))
    version = json.dumps(json.dumps({"clientVersion": {"gitVersion": "v1.40.0"}}))
    kubectl = tmp_path / "kubectl"
    answers = (
        f"*get-contexts*) echo team;; *secret*) cat {tmp_path}/secret;; *version*) echo {version};;"
    )
    kubectl.write_text(f'#!/bin/sh\ncase "$*" in {answers} esac\n')
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    printed = CliRunner().invoke(main.app, ["cluster", "env", "--context", "team"])
    assert printed.exit_code == 0, printed.output
    shell = f"{printed.output}\nprintenv MLFLOW_TRACKING_URI MLFLOW_TRACKING_PASSWORD"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["http://localhost:5001", "it's"]


def test_of_a_mistake_the_files_are_shown_at_once(tmp_path: Path) -> None:
    message = "looking\nerror: 1 of 9 images cannot be used:\n  a.png: truncated\nMend it\n"
    (tmp_path / "log").write_text(message)
    console = Console(file=io.StringIO())
    follower = Follower(Cluster("team"), "kubeflow", Display(console, verbose=False))
    with subprocess.Popen(["cat", tmp_path / "log"], stdout=subprocess.PIPE, text=True) as log:
        follower._read("fetch_data", log)
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "  fetch_data: error: 1 of 9 images cannot be used:",
        "  fetch_data:   a.png: truncated",
    ]


# Mistakes that need no cluster to be found


def refused(root: Path, *arguments: str, path: Path) -> str:
    """Run `crossfold run`, with no other programs than those of a folder; return its message."""
    shutil.copy(PROJECT / "params.yaml", root)
    program = f"import sys; sys.argv[1:] = {['run', *arguments]}; "
    program += "from crossfold.cli.main import main; main()"
    environment = {**os.environ, "PATH": str(path), "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd=root
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert [path.name for path in root.iterdir()] == ["params.yaml"]
    return done.stderr


@pytest.mark.parametrize("on", [(), ("--on", "docker")])
@pytest.mark.parametrize("option", ["--context", "--registry"])
def test_a_cluster_is_named_where_none_is_used(
    on: tuple[str, ...], option: str, tmp_path: Path
) -> None:
    said = refused(tmp_path, *on, option, "team", path=tmp_path)
    assert "--context and --registry are for --on cluster" in said


def test_without_kubectl_it_says_where_to_get_it(tmp_path: Path) -> None:
    said = refused(tmp_path, "--on", "cluster", path=tmp_path)
    assert "there is no `kubectl` command: install it (https://kubernetes.io" in said
