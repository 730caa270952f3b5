import os
import signal
import threading
import time

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


def test_a_signal_during_a_call_ends_the_process() -> None:
    def interrupt(*_: object) -> None:
        raise InterruptedError

    main = threading.main_thread().ident
    assert main
    timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGUSR1))
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with mlflow_process() as call:
            call(os.getpid)  # it has started
            timer.start()
            with pytest.raises(InterruptedError):
                call(time.sleep, 3600)
            with pytest.raises(StepError, match="has not answered"):
                call(os.getpid)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_death_of_the_process_is_an_error_and_does_not_hang() -> None:
    with mlflow_process() as call:
        for _ in range(2):
            with pytest.raises(StepError, match="died"):
                call(os._exit, 1)
