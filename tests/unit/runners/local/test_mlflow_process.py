import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, PERMISSION_DENIED

from crossfold.errors import UserError
from crossfold.runners.failures import StepError
from crossfold.runners.local import mlflow_run
from crossfold.runners.local.mlflow_process import mlflow_process


def test_calls_are_answered_by_one_process_that_ends_with_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SET_BY_THE_COMMAND", "yes")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with mlflow_process() as call:
        pid = call(os.getpid)
        assert pid != os.getpid()
        assert call(os.getenv, "SET_BY_THE_COMMAND") == "yes"
        with pytest.raises(FileNotFoundError):
            call(os.stat, "nowhere")
        with pytest.raises(UserError, match="MLFLOW_TRACKING_URI"):
            call(mlflow_run.check_store)
        with pytest.raises(RuntimeError, match="invalid literal"):
            call(int, "x")
        assert call(os.getpid) == pid
    assert not psutil.pid_exists(pid)


def test_calls_in_advance_keep_their_order_and_the_next_call_raises_their_error(
    tmp_path: Path,
) -> None:
    with mlflow_process() as call:
        call.later(os.mkdir, tmp_path / "made")
        assert call(os.path.exists, tmp_path / "made")
        call.later(os.stat, "nowhere")
        with pytest.raises(FileNotFoundError):
            call(os.rmdir, tmp_path / "made")
        assert (tmp_path / "made").exists()  # an earlier error comes first
        assert call(os.getpid) != os.getpid()


def test_an_answer_that_nobody_waits_for_does_not_hold_up_the_end() -> None:
    with mlflow_process() as call:
        assert call.settled(0)
        call.later(time.sleep, 3600)
        assert not call.settled(0.1)


def fail(code: int) -> None:
    raise MlflowException("not today", code)


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (PERMISSION_DENIED, UserError, "refuses this login"),
        (BAD_REQUEST, StepError, "MLflow: not today"),
    ],
)
def test_an_error_of_mlflow_is_explained(
    monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception], message: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    with mlflow_process() as call, pytest.raises(kind, match=message):
        call(fail, code)


INTERRUPTED = """
import os, signal, time
from crossfold.runners.failures import StepError
from crossfold.runners.local.mlflow_process import mlflow_process

def interrupt(*_):
    raise InterruptedError

signal.signal(signal.SIGALRM, interrupt)
with mlflow_process() as call:
    call(os.getpid)  # it has started
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        call(time.sleep, 3600)
    except InterruptedError:
        print("interrupted")
    try:
        call(os.getpid)
    except StepError as error:
        print(error)
"""


def test_a_signal_during_a_call_ends_the_process() -> None:
    # In a process of its own: the signal ends whatever process lacks the handler.
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=300
    )
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == "interrupted"
    assert "has not answered the last call" in second


def test_the_death_of_the_process_is_an_error_and_does_not_hang() -> None:
    with mlflow_process() as call:
        for _ in range(2):
            with pytest.raises(StepError, match="died"):
                call(os._exit, 1)
