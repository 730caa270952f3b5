"""Pushing to a remote whose configuration is given; test_data.py has the rest of the module."""

import hashlib
import json
import logging
import shutil
import threading
from pathlib import Path

import pytest
from zc.lockfile import LockFile  # type: ignore[import-untyped]

from crossfold.errors import UserError
from crossfold.versioning import dvc, remotes
from crossfold.versioning.remote_files import remote_files

SOURCE = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with three images, two of them alike, and weights, added to DVC."""
    root = tmp_path / "project"
    (root / ".dvc").mkdir(parents=True)
    shutil.copy(SOURCE / ".dvc" / "config", root / ".dvc")
    for name, content in {"data/a": "1", "data/b": "2", "data/c": "2", "models/w": "3"}.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(content)
    for variable in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for name in dvc.FOLDERS:
        dvc.add(root / name)
    return root


def pointer(project: Path, name: str) -> dvc.Pointer:
    return dvc.parse_pointer((project / f"{name}.dvc").read_text())


def test_what_the_remote_lacks_is_pushed_and_counted(project: Path, tmp_path: Path) -> None:
    config = {"url": str(tmp_path / "remote")}
    assert dvc.push(project, config) == 5  # three contents, and a list of each folder
    assert dvc.push(project, config) == 0
    (project / "data" / "d").write_text("4")
    dvc.add(project / "data")
    assert dvc.push(project, config) == 2
    assert "cluster" not in (project / ".dvc" / "config").read_text()


def test_what_was_pushed_can_be_read(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"url": str(tmp_path / "remote")}
    dvc.push(project, config)
    monkeypatch.setenv("CROSSFOLD_DVC_REMOTE", json.dumps(config))
    with remote_files(pointer(project, "data"), "data", "any") as files:
        assert files.read("c") == b"2"


@pytest.mark.parametrize("name", dvc.FOLDERS)
def test_data_that_are_nowhere_are_refused(project: Path, tmp_path: Path, name: str) -> None:
    config = {"url": str(tmp_path / "remote")}
    shutil.rmtree(project / name)
    shutil.rmtree(project / ".dvc" / "cache")
    for other in {*dvc.FOLDERS} - {name}:
        dvc.add(project / other)
    with pytest.raises(UserError, match=rf"{name}\.dvc .*'cluster'"):
        dvc.push(project, config)


def test_dvc_writes_to_the_log_and_not_to_the_terminal(
    project: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.rmtree(project / ".dvc" / "cache")
    with caplog.at_level(logging.WARNING), pytest.raises(UserError):
        dvc.push(project, {"url": str(tmp_path / "remote")})
    assert "Missing cache files" in caplog.text
    assert capfd.readouterr() == ("", "")


def test_data_that_only_the_remote_has_are_not_missed(project: Path, tmp_path: Path) -> None:
    config = {"url": str(tmp_path / "remote")}
    dvc.push(project, config)
    for name in (*dvc.FOLDERS, ".dvc/cache"):
        shutil.rmtree(project / name)
    assert dvc.push(project, config) == 0


def test_a_remote_that_cannot_be_written_is_named(project: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"'cluster'.*Not a directory"):
        dvc.push(project, {"url": str(tmp_path / "file" / "remote")})


def test_a_cache_with_all_the_data_serves_as_a_remote(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pointers = [project / f"{name}.dvc" for name in dvc.FOLDERS]
    cache = dvc.cache_with(project, pointers)
    assert cache == project / ".dvc/cache"
    monkeypatch.setenv("CROSSFOLD_DVC_REMOTE", json.dumps({"url": str(cache)}))
    with remote_files(pointer(project, "models"), "models", "any") as files:
        assert files.read("w") == b"3"
    (file,) = (p for p in cache.rglob("*") if p.is_file() and p.read_text() == "2")
    file.unlink()
    assert dvc.cache_with(project, pointers) is None


def test_the_files_of_a_pointer_are_known_from_the_cache_or_a_folder_remote(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"w": hashlib.md5(b"3", usedforsecurity=False).hexdigest()}
    assert dvc.known_files(project, "models", "nosuch") == wanted
    dvc.ensure_pushed(project, "sample")
    shutil.rmtree(project / ".dvc" / "cache")
    assert dvc.known_files(project, "models", "sample") == wanted
    found = dvc.find_object(project, wanted["w"], "sample")
    assert found is not None and found.read_text() == "3"
    assert dvc.known_files(project, "models", "minio") is None
    monkeypatch.setenv("CROSSFOLD_DVC_REMOTE", json.dumps({"url": "s3://elsewhere"}))
    assert dvc.known_files(project, "models", "sample") is None


def test_a_remote_is_asked_whether_it_has_the_data(project: Path) -> None:
    pointers = [project / f"{name}.dvc" for name in dvc.FOLDERS]
    assert not dvc.remote_has(project, "sample", pointers)
    dvc.ensure_pushed(project, "sample")
    assert dvc.remote_has(project, "sample", pointers)
    assert not dvc.remote_has(project, "nosuch", pointers)
    assert remotes.remote_names(project) == ["gdrive", "minio", "sample"]


def test_another_commands_lock_is_waited_for(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dvc.lock.DEFAULT_TIMEOUT", 0)  # it would give up at once
    held = LockFile(project / ".dvc" / "tmp" / "lock")
    threading.Timer(0.5, held.close).start()
    assert dvc.push(project, {"url": str(tmp_path / "remote")}) == 5
