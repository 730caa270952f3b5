import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient

from crossfold.errors import UserError
from crossfold.step.runtime import NOT_REPEATED, ON_KUBERNETES, REFUSED, Record, step, write_metrics
from crossfold.tracking import store
from crossfold.tracking.names import title


@pytest.fixture
def client(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MlflowClient]:
    (tmp_path / "store").mkdir()
    shutil.copy(empty_store, tmp_path / "store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/store/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "digits")
    monkeypatch.setenv("CROSSFOLD_RUN_ID", "run-1")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    handler = signal.getsignal(signal.SIGTERM)
    yield store.connect()
    signal.signal(signal.SIGTERM, handler)  # a step, which has its process to itself, sets its own


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outputs").mkdir()
    return tmp_path / "outputs"


def step_runs(client: MlflowClient) -> list[MlflowRun]:
    return list(client.search_runs(["1"], "tags.crossfold.kind = 'step'"))


def test_a_step_that_finishes_leaves_a_record_and_a_run(client: MlflowClient, folder: Path) -> None:
    begun = time.time()
    with step("train_fold", str(folder / "model"), iteration=3) as run:
        during = Record.read(folder)
        assert (during.status, during.ended) == ("running", None)
        run.log_metrics({"macro_f1": 0.5})
    record = Record.read(folder)
    assert record.ended is not None
    assert begun <= record.started <= record.ended <= time.time()
    assert (record.step, record.iteration, record.run_id) == ("train_fold", 3, "run-1")
    assert (record.status, record.error) == ("finished", "")
    found = client.get_run(record.mlflow_run_id)
    assert found.info.status == "FINISHED" and found.data.metrics == {"macro_f1": 0.5}
    assert [path.name for path in folder.iterdir()] == ["step.json"]


def test_a_users_mistake_ends_the_step_with_its_message(
    client: MlflowClient, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        pytest.raises(SystemExit) as caught,
        step("fetch_data", str(folder / "examples")),
    ):
        raise UserError("data/cat is empty: put images there")
    assert caught.value.code == REFUSED
    assert capfd.readouterr().out == "error: data/cat is empty: put images there\n"
    record = Record.read(folder)
    assert (record.status, record.error) == ("refused", "data/cat is empty: put images there")
    (run,) = step_runs(client)
    assert run.info.status == "FAILED"
    assert run.data.tags["crossfold.error"] == "data/cat is empty: put images there"


def test_any_other_failure_keeps_its_traceback(client: MlflowClient, folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), step("fetch_data", str(folder / "examples")):
        print(1 / 0)
    record = Record.read(folder)
    assert (record.status, record.error) == ("failed", "ZeroDivisionError: division by zero")
    assert record.ended is not None
    (run,) = step_runs(client)
    assert (run.info.run_id, run.info.status) == (record.mlflow_run_id, "FAILED")


def test_the_parameters_are_those_of_kubeflows_command(
    client: MlflowClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"parameterValues": {"seed": 7, "lineage": {"git_commit": "0f"}}}
    given = json.dumps({"inputs": inputs, "outputs": {}})
    monkeypatch.setattr(sys, "argv", ["main", "--executor_input", given, "--other", "x"])
    with step("fetch_data", str(folder / "examples")):
        pass
    (run,) = step_runs(client)
    assert run.data.params == {"seed": "7"}


def test_on_kubernetes_a_mistake_of_the_user_is_marked_as_not_to_be_repeated(
    client: MlflowClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = folder / "termination-log"
    monkeypatch.setattr("crossfold.step.runtime.TERMINATION_LOG", log)
    for on_kubernetes in (False, True):
        if on_kubernetes:
            monkeypatch.setenv(ON_KUBERNETES, "a-pod")
        with pytest.raises(SystemExit), step("fetch_data", str(folder / "examples")):
            raise UserError("too few images")
        assert log.exists() == on_kubernetes
    assert log.read_text() == f"{NOT_REPEATED}too few images"
    log.unlink()
    with pytest.raises(OSError, match="lost"), step("fetch_data", str(folder / "examples")):
        raise OSError("lost")
    assert not log.exists(), "another attempt may mend it"


def test_the_workflow_controller_knows_the_mark() -> None:
    manifests = Path(__file__).parents[3] / "manifests" / "kubeflow"
    texts = [path.read_text() for path in manifests.rglob("*.yaml")]
    assert any(f"!(lastRetry.message contains '{NOT_REPEATED}')" in text for text in texts)


def test_a_full_disk_is_the_users_to_mend(
    client: MlflowClient, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "backbone").write_text("half of it")
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_text("half of it")
    with (
        pytest.raises(SystemExit) as caught,
        step("fetch_data", str(folder / "examples")),
        Path("/dev/full").open("w") as file,
    ):
        file.write("one character")
        file.flush()
    assert caught.value.code == REFUSED
    record = Record.read(folder)
    assert record.status == "refused" and record.error.startswith(f"{folder}: ")
    assert capfd.readouterr().out == f"error: {record.error}\n"
    (run,) = step_runs(client)
    assert run.data.tags["crossfold.error"] == record.error
    # What the step wrote is of no use, and record, log and MLflow's store need its space.
    assert [path.name for path in folder.iterdir()] == ["step.json"]


def test_a_full_disk_names_the_file(client: MlflowClient, folder: Path) -> None:
    with pytest.raises(SystemExit), step("fetch_data", str(folder / "examples")):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/mnt/features")
    assert "/mnt/features" in Record.read(folder).error


def test_another_error_of_the_system_is_no_mistake_of_the_user(
    client: MlflowClient, folder: Path
) -> None:
    with pytest.raises(PermissionError), step("fetch_data", str(folder / "examples")):
        raise PermissionError(errno.EACCES, "Permission denied", "/root/x")
    assert Record.read(folder).status == "failed"


def test_a_store_that_cannot_be_used_is_refused_like_any_mistake(
    client: MlflowClient, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").write_text("this is no database")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/text")
    with pytest.raises(SystemExit) as caught, step("fetch_data", str(folder / "examples")):
        raise AssertionError("the step's work must not begin")
    assert caught.value.code == REFUSED
    record = Record.read(folder)
    assert record.status == "refused" and "cannot be opened" in record.error


PROGRAM = """
import sys, time
from crossfold.errors import UserError
from crossfold.step.runtime import step

with step("train_fold", sys.argv[1], iteration=0):
    print("working", flush=True)
    if sys.argv[2] == "mistake":
        raise UserError("lower data.num_folds")
    time.sleep(60)
"""


def start(folder: Path, how: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder / "model"), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_process_with_a_users_mistake_ends_with_its_status_and_no_traceback(
    client: MlflowClient, folder: Path
) -> None:
    with start(folder, "mistake") as process:
        output, _ = process.communicate()
    assert process.returncode == REFUSED == 3
    assert output.splitlines()[-1] == "error: lower data.num_folds"
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_process_that_is_asked_to_end_says_so(client: MlflowClient, folder: Path) -> None:
    with start(folder, "sleep") as process:
        assert process.stdout is not None
        while process.stdout.readline() != "working\n":
            assert process.poll() is None
        assert Record.read(folder).status == "running"
        process.send_signal(signal.SIGTERM)
        output = process.stdout.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in output
    record = Record.read(folder)
    assert record.status == "failed" and record.ended is not None
    (run,) = step_runs(client)
    assert run.info.status == "KILLED"


def test_titles_have_the_folds_number() -> None:
    assert title("train_fold", 0) == "train_fold 0"
    assert title("fetch_data", None) == "fetch_data"


def test_metrics_are_json_in_one_order(tmp_path: Path) -> None:
    write_metrics(str(tmp_path / "a"), {"loss": 0.5, "accuracy": 1})
    write_metrics(str(tmp_path / "b"), {"accuracy": 1, "loss": 0.5})
    assert json.loads((tmp_path / "a").read_text()) == {"accuracy": 1, "loss": 0.5}
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
