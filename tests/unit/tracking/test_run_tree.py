import json
import math
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient

from crossfold.errors import UserError
from crossfold.records import FoldResults
from crossfold.tracking import run_tree, store
from crossfold.tracking.names import run_name, short_labels
from crossfold.tracking.run import MAX_PARAM_LENGTH, Run
from crossfold.training.candidate_runs import log_candidates
from tests.unit.mlflow_proxy import free_port, mlflow_server
from tests.unit.networks import FACTS

STARTED = datetime(2026, 1, 2, 22, 50, 25)
SHARED = {"device": "cpu", "num_epochs": 2}


@pytest.fixture
def client(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    shutil.copy(empty_store, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "digits")
    monkeypatch.setenv("CROSSFOLD_RUN_ID", "run-1")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return store.connect()


def _runs(client: MlflowClient, filter_string: str = "") -> list[MlflowRun]:
    return list(client.search_runs(["1"], filter_string))


def _result(fold: int, name: str, learning_rate: float) -> dict[str, Any]:
    history = [
        {"epoch": epoch, "train_loss": 1 / epoch, "val_macro_f1": 1 - 1 / (epoch + 1)}
        for epoch in (1, 2)
    ]
    return {
        "candidate": {
            "name": name,
            "freeze_backbone": True,
            "train_from": "head",
            "learning_rate": learning_rate,
            "weight_decay": 0.0,
        },
        "fold": fold,
        "num_epochs": 2,
        "macro_f1": 0.9,
        "accuracy": 0.91,
        "loss": 0.3,
        "mcc": 0.8,
        "history": history,
    }


def _log_fold(step: Run, results: list[dict[str, Any]]) -> None:
    found = FoldResults.model_validate({"classes": [], "backbones": [FACTS], "results": results})
    log_candidates(step, found, params=SHARED)


def test_names_differ_in_the_characters_that_mlflow_shows() -> None:
    assert run_name(STARTED, "layer4 lr=0.001") == "225025 layer4 lr=0.001"


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["head lr=0.003 wd=0.01"], ["head"]),
        (
            ["head lr=0.003 wd=0.01", "head lr=0.01 wd=0.01", "layer4 lr=0.001 wd=0.05"],
            ["head 0.003", "head 0.01", "layer4"],
        ),
        (["layer4 lr=0.0003 wd=0.01", "layer4 lr=0.0003 wd=0.05"], ["wd=0.01", "wd=0.05"]),
        (["head", "head wd=0.1"], ["head", "wd=0.1"]),
    ],
)
def test_labels_of_candidates_are_short_and_different(names: list[str], labels: list[str]) -> None:
    assert short_labels(names) == labels


def test_a_parent_is_found_again_and_runs_again(client: MlflowClient) -> None:
    first = run_tree.parent_run("run-1", name="digits", tags={"a": "b"}, params={"seed": 0})
    run_tree.end_parent("run-1", "FAILED")
    again = run_tree.parent_run("run-1", name="digits", tags={"a": "c"}, params={"seed": 0})
    assert again.id == first.id
    (run,) = _runs(client)
    assert run.info.status == "RUNNING"
    assert run.data.tags["a"] == "c"
    assert run.data.params == {"seed": "0"}


def test_a_step_is_nested_and_ends_with_its_block(client: MlflowClient) -> None:
    parent = run_tree.parent_run("run-1", name="digits")
    with run_tree.step_run("aggregate_cv") as step:
        assert client.get_run(step.id).info.status == "RUNNING"
        assert step.parent_id == parent.id
        step.parent().log_metrics({"cv_macro_f1": 0.9})
    ended = client.get_run(step.id)
    assert ended.info.status == "FINISHED"
    assert ended.data.tags["mlflow.parentRunId"] == parent.id
    assert ended.data.tags["crossfold.step"] == "aggregate_cv"
    assert client.get_run(parent.id).data.metrics == {"cv_macro_f1": 0.9}


def test_a_failed_step_says_why_and_its_retry_continues_it(client: MlflowClient) -> None:
    run_tree.parent_run("run-1", name="digits")
    with pytest.raises(ValueError, match="no"), run_tree.step_run("fetch_data") as step:
        raise ValueError("no " + "x" * 100_000)
    failed = client.get_run(step.id)
    assert failed.info.status == "FAILED"
    assert failed.data.tags["crossfold.error"].startswith("no xxx")
    assert len(failed.data.tags["crossfold.error"]) == store.MAX_ERROR_LENGTH
    with run_tree.step_run("fetch_data") as retry:
        assert retry.id == step.id
    ended = client.get_run(step.id)
    assert ended.info.status == "FINISHED"
    assert "crossfold.error" not in ended.data.tags
    assert len(_runs(client)) == 2


def test_an_interrupted_step_is_killed_not_failed(client: MlflowClient) -> None:
    with pytest.raises(KeyboardInterrupt), run_tree.step_run("fetch_data") as step:
        raise KeyboardInterrupt
    assert client.get_run(step.id).info.status == "KILLED"


def test_folds_and_pipeline_runs_have_runs_of_their_own(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = set()
    for run_id in ("run-1", "run-2"):
        monkeypatch.setenv("CROSSFOLD_RUN_ID", run_id)
        for fold in (0, 1, 10):
            with run_tree.step_run("train_fold", iteration=fold) as step:
                ids.add(step.id)
    assert len(ids) == 6
    assert len(_runs(client, "tags.crossfold.kind = 'pipeline'")) == 2


def test_ending_a_parent_ends_what_a_killed_step_left_open(client: MlflowClient) -> None:
    run_tree.parent_run("run-1", name="digits")
    code = (
        "import os, signal; from crossfold.tracking import run_tree\n"
        "with run_tree.step_run('train_fold', iteration=0) as run, run.child('c', {'a': 'b'}):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert [run.info.status for run in _runs(client)] == ["RUNNING"] * 4
    run_tree.end_parent("run-1", "FAILED")
    kinds = {run.data.tags.get("crossfold.kind"): run.info.status for run in _runs(client)}
    assert kinds == {"pipeline": "FAILED", "loop": "FAILED", "step": "KILLED", None: "KILLED"}


def test_iterations_are_nested_in_a_loop_which_ends_with_the_pipeline(
    client: MlflowClient,
) -> None:
    parent = run_tree.parent_run("run-1", name="digits")
    for fold in (0, 1, 0):
        with run_tree.step_run("train_fold", iteration=fold) as step:
            pass
    (loop,) = _runs(client, "tags.crossfold.kind = 'loop'")
    assert loop.info.run_name == "train_folds"
    assert loop.data.tags["mlflow.parentRunId"] == parent.id
    assert step.parent_id == loop.info.run_id
    assert client.get_run(step.id).data.tags["crossfold.iteration"] == "0"
    assert len(_runs(client, f"tags.mlflow.parentRunId = '{loop.info.run_id}'")) == 2
    parent.finish()
    assert client.get_run(loop.info.run_id).info.status == "FINISHED"


def test_a_step_has_its_parameters_and_a_cached_one_a_copy(client: MlflowClient) -> None:
    with run_tree.step_run("train_fold", iteration=0, params={"seed": 7}) as source:
        pass
    with run_tree.step_run("train_fold", iteration=1, params={"seed": 7}) as other:
        pass
    steps = [run_tree.CachedStep("train_fold", i, run.id) for i, run in enumerate((source, other))]
    run_tree.log_cached_steps("run-2", steps)
    cached = _runs(client, "tags.crossfold.cached = 'true'")
    assert {run.data.tags["crossfold.source_run"] for run in cached} == {source.id, other.id}
    assert len({run.data.tags["mlflow.parentRunId"] for run in cached}) == 1
    assert [run.data.params for run in cached] == [{"seed": "7"}] * 2


def test_an_experiment_is_of_the_kind_that_shows_runs(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_tree.parent_run("run-1", name="digits")
    made_elsewhere = client.create_experiment("elsewhere")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
    run_tree.parent_run("run-2", name="digits")
    for experiment_id in ("1", made_elsewhere):
        tags = client.get_experiment(experiment_id).tags
        assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_cached_iterations_that_the_plugin_opened_are_named(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = run_tree.parent_run("run-1", name="digits")
    monkeypatch.setenv("MLFLOW_RUN_ID", "of the plugin's run")

    def opened(name: str, below: str, params: dict[str, str]) -> str:
        tags = {"mlflow.parentRunId": below}
        run = client.create_run("1", run_name=name, tags=tags)
        for key, value in params.items():
            client.log_param(run.info.run_id, key, value)
        return str(run.info.run_id)

    loop = opened("for-loop-1", parent.id, {})
    cached = opened("train-fold", loop, {"fold": "3"})
    other = opened("train-final", parent.id, {"seed": "0"})
    whole = opened("extract-features", parent.id, {"part": "b"})
    shard = opened("extract-features", loop, {"part": "b 1", "shard": "1.0"})
    run_tree.name_cached_iterations(parent)
    run = client.get_run(cached)
    assert run.info.run_name == "train_fold 3"
    assert run.data.tags["crossfold.iteration"] == "3"
    names = [client.get_run(run_id).info.run_name for run_id in (loop, other, whole, shard)]
    assert names == ["for-loop-1", "train-final", "extract_features b", "extract_features b 1"]


def test_a_fold_logs_a_run_per_candidate_with_params_curves_and_scores(
    client: MlflowClient,
) -> None:
    results = [_result(1, "slow", 0.001), _result(1, "it's fast", 0.01)]
    for _ in range(2):  # a retry replaces
        with run_tree.step_run("train_fold", iteration=1) as step:
            _log_fold(step, results)
    candidates = _runs(client, f"tags.mlflow.parentRunId = '{step.id}'")
    assert {run.data.tags["crossfold.candidate"] for run in candidates} == {"slow", "it's fast"}
    assert len(candidates) == 2
    (fast,) = (run for run in candidates if run.data.params["candidate"] == "it's")
    assert fast.info.run_name == "f1 it's"
    assert fast.info.status == "FINISHED"
    assert fast.data.params == {
        "architecture": "resnet18",
        "device": "cpu",
        "num_epochs": "2",
        "candidate": "it's",
        "freeze_backbone": "True",
        "train_from": "head",
        "learning_rate": "0.01",
        "weight_decay": "0.0",
    }
    assert fast.data.metrics["macro_f1"] == 0.9
    assert next(iter(fast.data.metrics)) == "macro_f1"
    assert fast.data.tags["crossfold.fold"] == "1"
    curve = client.get_metric_history(fast.info.run_id, "train_loss")
    assert [(point.step, point.value) for point in curve] == [(1, 1.0), (2, 0.5)]


def test_a_head_has_no_rate_and_a_diverged_candidate_no_scores(client: MlflowClient) -> None:
    head, diverged = _result(0, "head", 0.1), _result(0, "wild", 9.0)
    del head["candidate"]["learning_rate"]
    head["history"] = []
    diverged = {key: diverged[key] for key in ("candidate", "fold", "num_epochs")} | {"diverged": 2}
    with run_tree.step_run("train_fold", iteration=0) as step:
        _log_fold(step, [head, diverged])
    runs = _runs(client, f"tags.mlflow.parentRunId = '{step.id}'")
    found = {run.data.params["candidate"]: run.data for run in runs}
    assert found["head"].params["learning_rate"] == "none"
    scores = {"macro_f1": 0.9, "accuracy": 0.91, "loss": 0.3, "mcc": 0.8}
    assert found["head"].metrics == scores
    assert found["wild"].metrics == {}
    assert found["wild"].tags["crossfold.diverged"] == "epoch 2"


def test_many_and_long_values_are_split_and_cut(client: MlflowClient) -> None:
    history = [{"epoch": e, "loss": float(e), "f1": math.nan} for e in range(1, 801)]
    with run_tree.step_run("train_fold", iteration=0) as step:
        step.log_curve(history)
        step.log_params({f"p{n}": n for n in range(150)} | {"long": "x" * 10_000})
        step.log_params({"p0": 0})
    run = client.get_run(step.id)
    assert len(client.get_metric_history(step.id, "loss")) == 800
    assert len(run.data.params) == 151
    assert len(run.data.params["long"]) == MAX_PARAM_LENGTH


def test_a_repeated_step_may_get_its_settings_in_another_order(client: MlflowClient) -> None:
    with run_tree.step_run("train_fold", iteration=0) as step:
        step.log_params({"candidates": [{"a": 1, "b": 2}]})
        step.log_params({"candidates": [{"b": 2, "a": 1}]})
    run = client.get_run(step.id)
    assert json.loads(run.data.params["candidates"]) == [{"a": 1, "b": 2}]


def test_artifacts_are_files_texts_and_bytes_beside_the_store(
    client: MlflowClient, tmp_path: Path
) -> None:
    (tmp_path / "anything").write_text("file")
    with run_tree.step_run("evaluate_test") as step:
        step.log_artifact(tmp_path / "anything", "report.html")
        step.log_artifact("text", "notes/note.txt")
        step.log_artifact(b"\x89PNG", "plots/roc.png")
    folder = tmp_path / "mlartifacts" / step.id / "artifacts"
    assert (folder / "report.html").read_text() == "file"
    assert not (folder / "report.html").is_symlink()
    assert (folder / "notes/note.txt").read_text() == "text"
    assert (folder / "plots/roc.png").read_bytes() == b"\x89PNG"


def test_a_dataset_shows_its_dvc_hash(client: MlflowClient) -> None:
    digest = "d" * 32 + ".dir"
    with run_tree.step_run("fetch_data") as step:
        step.log_dataset("data", digest, "sample")
    inputs = client.get_run(step.id).inputs
    assert inputs is not None
    (logged,) = inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("data", digest)


def test_steps_may_log_the_same_new_dataset_at_once(client: MlflowClient) -> None:
    num_steps, num_datasets = 4, 3
    together = Barrier(num_steps)

    def log(part: int) -> None:
        with run_tree.step_run("fetch_weights", iteration=f"part {part}") as step:
            for number in range(num_datasets):
                together.wait(60)
                step.log_dataset("models", f"{number}", "sample")

    with ThreadPoolExecutor(num_steps) as pool:
        list(pool.map(log, range(num_steps)))
    runs = _runs(client, "tags.crossfold.step = 'fetch_weights'")
    logged = [run.inputs.dataset_inputs for run in runs if run.inputs is not None]
    assert [len(datasets) for datasets in logged] == [num_datasets] * num_steps


def log_cached(run_id: str, source_run_id: str) -> None:
    step = run_tree.CachedStep("aggregate_cv", None, source_run_id)
    run_tree.log_cached_steps(run_id, [step])


def test_without_cached_steps_a_run_that_never_began_is_not_opened(client: MlflowClient) -> None:
    run_tree.log_cached_steps("killed at once", [])
    assert not _runs(client, "tags.crossfold.run_id = 'killed at once'")


def test_a_cached_step_names_the_run_that_did_the_work(client: MlflowClient) -> None:
    with run_tree.step_run("aggregate_cv") as source:
        source.log_metrics({"cv_macro_f1": 0.9})
    parent = run_tree.parent_run("run-2", name="digits")
    for _ in range(2):
        log_cached("run-2", source.id)
    (run,) = _runs(client, f"tags.mlflow.parentRunId = '{parent.id}'")
    assert run.info.status == "FINISHED"
    assert run.data.tags["crossfold.cached"] == "true"
    assert run.data.tags["crossfold.source_run"] == source.id
    assert run.data.metrics == {"cv_macro_f1": 0.9}


def test_a_step_that_this_very_run_did_keeps_its_run(client: MlflowClient) -> None:
    with run_tree.step_run("aggregate_cv") as source:
        source.log_metrics({"cv_macro_f1": 0.9})
    before = client.get_run(source.id)
    log_cached("run-1", source.id)
    assert len(_runs(client, "tags.crossfold.step = 'aggregate_cv'")) == 1
    assert client.get_run(source.id).to_dictionary() == before.to_dictionary()


def test_a_cached_step_whose_source_was_deleted_is_recorded_without_numbers(
    client: MlflowClient,
) -> None:
    log_cached("run-1", "f" * 32)
    (cached,) = _runs(client, "tags.crossfold.step = 'aggregate_cv'")
    assert cached.data.metrics == {}


def test_a_step_done_again_is_no_longer_called_cached(client: MlflowClient) -> None:
    log_cached("run-1", "f" * 32)
    with run_tree.step_run("aggregate_cv") as step:
        pass
    assert "crossfold.cached" not in client.get_run(step.id).data.tags


def test_of_two_parents_that_steps_opened_at_once_the_older_stays(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = run_tree.parent_run("run-1", name="digits")
    find_one, misses = run_tree._find_one, iter([True])  # the first look came too early
    monkeypatch.setattr(
        run_tree, "_find_one", lambda find: None if next(misses, False) else find_one(find)
    )
    assert run_tree.parent_run("run-1", name="digits").id == older.id
    assert len(_runs(client, "tags.crossfold.kind = 'pipeline'")) == 1


@pytest.mark.slow
def test_processes_that_write_at_once_lose_nothing(client: MlflowClient) -> None:
    code = (
        "import sys; from crossfold.tracking import run_tree\n"
        "for n in range(5):\n"
        "    with run_tree.step_run('train_fold', iteration=int(f'{sys.argv[1]}{n}')) as run:\n"
        "        run.log_curve([{'epoch': e, 'loss': e} for e in range(50)])\n"
        "        run.parent().log_metrics({f'{n}_{sys.argv[1]}': n})\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(fold)]) for fold in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    steps = _runs(client, "tags.crossfold.kind = 'step'")
    assert len(steps) == 10
    assert len({run.data.tags["mlflow.parentRunId"] for run in steps}) == 1
    assert all(len(client.get_metric_history(run.info.run_id, "loss")) == 50 for run in steps)
    (loop,) = _runs(client, "tags.crossfold.kind = 'loop'")
    assert len(loop.data.metrics) == 10


@pytest.mark.parametrize(
    "missing", ["MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "CROSSFOLD_RUN_ID"]
)
def test_a_missing_setting_is_named_and_no_default_store_made(
    client: MlflowClient, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    monkeypatch.delenv(missing)
    with pytest.raises(UserError, match=missing), run_tree.step_run("fetch_data"):
        pass
    assert set(tmp_path.iterdir()) == before


def test_a_server_that_does_not_answer_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@{address}")
    with pytest.raises(UserError, match=f"http://{address} cannot be reached") as caught:
        store.connect()
    assert "secret" not in str(caught.value)


def test_something_that_is_no_store_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("no database " * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/notes.txt")
    with pytest.raises(UserError, match=r"notes.txt cannot be opened: file is not a database"):
        store.connect()


@pytest.mark.parametrize("revision", ["451aebb31d03", "ffffffffffff"])
def test_a_store_of_another_version_says_what_to_run(
    client: MlflowClient, tmp_path: Path, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.db"
    shutil.copy(tmp_path / "mlflow.db", other)
    with closing(sqlite3.connect(other)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    with pytest.raises(UserError, match=f"mlflow db upgrade sqlite:///{other}"):
        store.connect()


def test_a_deleted_experiment_says_how_to_restore_it(client: MlflowClient) -> None:
    run_tree.parent_run("run-1", name="digits")
    client.delete_experiment("1")
    with pytest.raises(UserError, match="mlflow experiments restore --experiment-id 1"):
        run_tree.parent_run("run-1", name="digits")


@pytest.fixture(scope="module")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder)
    with mlflow_server(folder) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.slow
def test_on_a_server_the_run_of_the_plugin_is_used_and_left_open(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(server)
    experiment = client.create_experiment("cluster")
    parent = client.create_run(experiment, run_name="pipeline").info.run_id
    nested = {"mlflow.parentRunId": parent}
    task = client.create_run(experiment, run_name="train-fold", tags=nested).info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_RUN_ID", task)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)

    with run_tree.step_run("train_fold", iteration=2) as step:
        assert step.id == task
        step.log_params({"seed": 0})
        step.log_artifact("text", "note.txt")
        _log_fold(step, [_result(2, "slow", 0.001)])
        step.parent().log_metrics({"cv_macro_f1": 0.9})
    with pytest.raises(UserError), run_tree.step_run("train_fold", iteration=2):
        raise UserError("too few images")

    run = client.get_run(task)
    assert run.info.status == "RUNNING", "the plugin ends its own runs"
    assert run.data.tags["crossfold.iteration"] == "2"
    assert run.data.tags["crossfold.error"] == "too few images"
    assert run.data.params == {"crossfold.seed": "0"}, "the plugin logs `seed` itself"
    assert client.get_run(parent).data.metrics == {"cv_macro_f1": 0.9}
    assert [file.path for file in client.list_artifacts(task)] == ["note.txt"]
    (candidate,) = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{task}'")
    assert candidate.data.params["candidate"] == "slow"
    assert len(client.search_runs([experiment])) == 3


def test_on_a_server_without_the_plugin_the_shape_is_the_same(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "plain")
    monkeypatch.setenv("CROSSFOLD_RUN_ID", "run-1")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    for _ in range(2):
        with run_tree.step_run("fetch_data") as step:
            step.log_dataset("data", "d" * 32 + ".dir", "sample")
            step.log_artifact("text", "note.txt")
    client = MlflowClient(server)
    runs = client.search_runs([step.experiment_id])
    assert {run.data.tags["crossfold.kind"] for run in runs} == {"pipeline", "step"}
    assert len(runs) == 2
