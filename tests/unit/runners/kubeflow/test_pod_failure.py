"""The message on a failed run. The logs are those of Kubeflow Pipelines 2.17.0 with Argo 4.0.5."""

import os
from pathlib import Path

import pytest

from crossfold.infra.cluster.kubectl import Cluster
from crossfold.runners.kubeflow.pod_failure import LAST_LINES, explain_failure
from crossfold.runners.kubeflow.workflow import State, Task, tasks

from .recorded import recorded

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
