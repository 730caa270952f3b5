"""Remembering MLflow's answer about a version while the store is the same."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from crossfold.errors import UserError
from crossfold.network import GRAPH_FILE
from crossfold.predict import file_hashes, local_version
from crossfold.predict.local_version import KnownVersion
from crossfold.tracking.store import connect

CHAMPION = "crossfold@champion"


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with two versions; the first is champion."""
    (tmp_path / "runs").mkdir()
    store = Path(shutil.copy(empty_store, tmp_path / "runs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    client = connect()
    client.create_registered_model("crossfold")
    for n in "12":
        artifacts = tmp_path / f"model-{n}" / file_hashes.ARTIFACTS
        artifacts.mkdir(parents=True)
        (artifacts / GRAPH_FILE).write_text(f"learned {n}")
        hashes = json.dumps(file_hashes.hash_folder(artifacts.parent))
        tags = {file_hashes.TAG: hashes}
        client.create_model_version("crossfold", artifacts.parent.as_uri(), tags=tags)
    client.set_registered_model_alias("crossfold", "champion", "1")
    return store


def look_up(root: Path, name: str = CHAMPION) -> None:
    """Ask MLflow for a version and remember the answer, as `crossfold predict` does."""
    client = connect()
    lookup = local_version.begin(root, name)
    assert lookup
    version = client.get_model_version_by_alias("crossfold", "champion")
    local_version.remember(lookup, client, version)


def recalled(root: Path, name: str = CHAMPION) -> KnownVersion | None:
    lookup = local_version.begin(root, name)
    return local_version.recall(lookup) if lookup else None


def test_an_answer_is_remembered_under_its_name(store: Path, tmp_path: Path) -> None:
    assert recalled(tmp_path) is None
    look_up(tmp_path)
    known = recalled(tmp_path)
    assert known
    assert (known.name, known.version) == ("crossfold", "1")
    assert Path(known.graph).read_text() == "learned 1"
    assert recalled(tmp_path, "crossfold@challenger") is None


def promote(client: MlflowClient) -> None:
    client.set_registered_model_alias("crossfold", "champion", "2")


def dethrone(client: MlflowClient) -> None:
    client.delete_registered_model_alias("crossfold", "champion")


def delete(client: MlflowClient) -> None:
    client.delete_model_version("crossfold", "1")


def tag(client: MlflowClient) -> None:
    client.set_model_version_tag("crossfold", "1", "size", "small")


@pytest.mark.parametrize("change", [promote, dethrone, delete, tag])
def test_any_change_of_the_registry_ends_an_answer(
    store: Path, tmp_path: Path, change: Callable[[MlflowClient], None]
) -> None:
    look_up(tmp_path)
    times = store.stat().st_atime_ns, store.stat().st_mtime_ns
    change(connect())
    os.utime(store, ns=times)  # as if it had happened within one tick of the file system's clock
    assert recalled(tmp_path) is None


def test_a_new_champion_is_remembered_in_place_of_the_old_one(store: Path, tmp_path: Path) -> None:
    look_up(tmp_path)
    promote(connect())
    look_up(tmp_path)
    known = recalled(tmp_path)
    assert known and known.version == "2"


def test_another_file_in_the_stores_place_ends_an_answer(store: Path, tmp_path: Path) -> None:
    look_up(tmp_path)
    store.replace(store.with_name("before.db"))
    shutil.copyfile(store.with_name("before.db"), store)
    assert recalled(tmp_path) is None


def test_another_store_has_other_answers(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up(tmp_path)
    os.link(store, tmp_path / "other.db")  # the same state
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    assert recalled(tmp_path) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert local_version.begin(tmp_path, CHAMPION) is None


def test_a_change_during_the_lookup_is_not_overlooked(store: Path, tmp_path: Path) -> None:
    client = connect()
    lookup = local_version.begin(tmp_path, CHAMPION)
    version = client.get_model_version_by_alias("crossfold", "champion")
    promote(client)
    assert lookup
    local_version.remember(lookup, client, version)
    assert recalled(tmp_path) is None


def test_a_version_without_prediction_sets_is_remembered_as_such(
    store: Path, tmp_path: Path
) -> None:
    look_up(tmp_path)
    known = recalled(tmp_path)
    assert known and known.sets_sha256 is None
    with pytest.raises(UserError, match="crossfold version 1 has no prediction sets"):
        local_version.load_reference(known)


def test_a_store_with_a_write_ahead_log_is_asked_each_time(store: Path, tmp_path: Path) -> None:
    """Its file stays the same while the log takes the changes."""
    look_up(tmp_path)
    with closing(sqlite3.connect(store)) as database:
        database.execute("PRAGMA journal_mode = wal")
        assert local_version.begin(tmp_path, CHAMPION) is None


def test_a_versions_file_may_go_or_change(store: Path, tmp_path: Path) -> None:
    look_up(tmp_path)
    known = recalled(tmp_path)
    assert known
    Path(known.graph).write_text("other")
    with pytest.raises(UserError, match="damaged or has been modified"):
        local_version.load(known)
    Path(known.graph).unlink()
    assert recalled(tmp_path) is None


def test_an_answer_that_cannot_be_kept_or_read_is_asked_for_again(
    store: Path, tmp_path: Path
) -> None:
    (tmp_path / "runs/cache").touch()  # no folder can be made here
    look_up(tmp_path)
    assert recalled(tmp_path) is None
    (tmp_path / "runs/cache").unlink()
    look_up(tmp_path)
    (entry,) = (tmp_path / "runs/cache/versions").iterdir()
    entry.write_text("")
    assert recalled(tmp_path) is None
