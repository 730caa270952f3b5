import os

import psutil
import pytest

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


def test_the_death_of_the_process_is_an_error_and_does_not_hang() -> None:
    with mlflow_process() as call:
        for _ in range(2):
            with pytest.raises(StepError, match="died"):
                call(os._exit, 1)
