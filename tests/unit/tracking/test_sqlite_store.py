import resource
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.entities import LoggedModelOutput
from mlflow.tracking import MlflowClient

from crossfold.errors import UserError
from crossfold.tracking import run_tree
from crossfold.tracking.sqlite_store import find_experiment, prepare_store
from crossfold.tracking.store import connect


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a run, its artifact, and a version with a file, as register_model makes one."""
    folder = tmp_path / "before"
    folder.mkdir()
    store = Path(shutil.copy(empty_store, folder))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "digits")
    run = run_tree.parent_run("run-1", name="a run")
    run.log_artifact("found", "report.html")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("learned")
    model = run.client.create_logged_model(run.experiment_id, "crossfold", source_run_id=run.id)
    run.client.log_model_artifacts(model.model_id, str(tmp_path / "model"))
    run.client.finalize_logged_model(model.model_id, "READY")
    run.client.log_outputs(run.id, [LoggedModelOutput(model.model_id, step=0)])
    run.client.create_registered_model("crossfold")
    run.client.create_model_version("crossfold", model.model_uri, run.id, model_id=model.model_id)
    folder = run.client.get_run(run.id).info.artifact_uri
    run.client.create_model_version("crossfold", f"{folder}/report.html", run.id)
    return store


def content(store: Path) -> str:
    with closing(sqlite3.connect(store)) as database:
        return "\n".join(database.iterdump())


def files(store: Path) -> set[str]:
    return {path.name for path in store.parent.rglob("*") if path.is_file()}


def open_store(store: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    return connect()


def test_a_store_that_was_moved_has_its_files_and_takes_new_ones(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = store.parent.rename(tmp_path / "after") / store.name
    client = open_store(moved, monkeypatch)
    assert str(store.parent) not in content(moved)
    assert store.parent.as_uri() not in content(moved)
    for version, file in (("1", "/weights"), ("2", "")):
        uri = client.get_model_version_download_uri("crossfold", version)
        assert Path(uri.removeprefix("file://") + file).read_text()
    run_tree.parent_run("run-2", name="another").log_artifact("found", "new.html")
    assert "new.html" in files(moved)
    assert not store.parent.exists()


def test_a_copy_does_not_write_into_the_original(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, files_before = content(store), files(store)
    copy = Path(shutil.copytree(store.parent, tmp_path / "copy")) / store.name
    open_store(copy, monkeypatch)
    run_tree.parent_run("run-2", name="another").log_artifact("found", "new.html")
    assert "new.html" in files(copy)
    assert (content(store), files(store)) == (before, files_before)


def test_a_store_that_was_not_moved_stays_as_it_is(store: Path) -> None:
    before = content(store)
    prepare_store(store)
    assert content(store) == before


def test_an_experiment_is_found_by_its_name(store: Path, tmp_path: Path) -> None:
    run = run_tree.find_run("run-1")
    assert str(find_experiment(store, "digits")) == run.experiment_id
    assert find_experiment(store, "letters") is None
    prepare_store(tmp_path / "new.db")
    assert find_experiment(tmp_path / "new.db", "digits") is None


def test_a_store_that_cannot_be_completed_is_not_there_and_leftovers_go_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow would leave half of its tables, and never get past them."""
    store = tmp_path / "runs/mlflow.db"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))  # it has 1 MB when complete
    try:
        with pytest.raises(UserError, match=str(store)):
            open_store(store, monkeypatch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    lock = ".mlflow.db.lock"
    assert [path.name for path in store.parent.iterdir()] == [lock]
    (store.parent / ".mlflow.db.new-killed").mkdir()
    (store.parent / ".mlflow.db.newest").mkdir()  # somebody else's
    with ThreadPoolExecutor() as starts:
        list(starts.map(prepare_store, [store, store]))
    left = {path.name for path in store.parent.iterdir()}
    assert left == {"mlflow.db", ".mlflow.db.newest", lock}
    open_store(store, monkeypatch).create_experiment("digits")
