"""A version that a cluster trained, trained again here: by a stand-in for its commit's code."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient
from rich.console import Console

from crossfold.errors import UserError
from crossfold.network import processor
from crossfold.reproduce.reproduce import Reproduction, remove_leftovers, reproduce
from crossfold.runners.base import RunnerName
from crossfold.runners.display import Display
from crossfold.runners.local.run_folders import new_run
from crossfold.settings import load_settings
from crossfold.versioning import dvc, remotes

PROJECT = Path(__file__).parents[3]
CLUSTER = (
    "data.remote=of-the-cluster",
    "extraction.shards=2",
    "tracking.uri=http://mlflow.kubeflow:5000",
    "tracking.model_name=flowers",
)
# Keeps what it was called with, and registers a version with the results that it is given.
CODE = """
import json, os, shutil, sys
from pathlib import Path
import yaml
from mlflow.tracking import MlflowClient

def main():
    call = {{
        "command": sys.argv[1:],
        "settings": yaml.safe_load(Path("params.yaml").read_text()),
        "environment": dict(os.environ),
        "pointers": [Path(name).read_text() for name in ("data.dvc", "models.dvc")],
    }}
    Path({call!r}).write_text(json.dumps(call))
    Path("runs").mkdir()
    shutil.copy({store!r}, "runs/mlflow.db")
    client = MlflowClient("sqlite:///runs/mlflow.db", "sqlite:///runs/mlflow.db")
    client.create_registered_model("reproduced")
    tags = json.loads(Path({results!r}).read_text())
    client.create_model_version("reproduced", "file:///nowhere", tags=tags)
"""
RESULTS = {"weights_hash": "a" * 64, "split_hash": "b" * 64, "test_macro_f1": "0.9", "torch": "2"}


@pytest.fixture
def project(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in git as a run on a cluster left it: its data are in a remote only."""
    shutil.copy(empty_store, tmp_path / "of-the-cluster.db")
    root = tmp_path / "project"
    (root / "commands").mkdir(parents=True)
    (root / "commands/__init__.py").touch()
    script = '[project.scripts]\ncrossfold = "commands.old:main"\n'
    (root / "pyproject.toml").write_text(script)
    call, results = str(tmp_path / "call"), str(tmp_path / "results")
    code = CODE.format(call=call, store=str(empty_store), results=results)
    (root / "commands/old.py").write_text(code)
    for name in ("params.yaml", ".gitignore"):
        shutil.copy(PROJECT / name, root / name)
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("['remote \"sample\"']\n    url = ../dvc-remote\n")
    for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in dvc.FOLDERS:
        (root / name).mkdir()
        (root / name / "file").write_text(name)
        dvc.add(root / name)
    dvc.ensure_pushed(root, "sample")
    shutil.rmtree(root / ".dvc/cache")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "as it was")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.kubeflow:5000")
    return root


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    command = ["git", *identity, *arguments]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def of_cluster(root: Path) -> ModelVersion:
    """A version as a cluster registers it."""
    settings = load_settings(root / "params.yaml", CLUSTER)
    hashes = {
        f"{name}_hash": dvc.pointer_hash((root / f"{name}.dvc").read_text()) for name in dvc.FOLDERS
    }
    tags = {
        **RESULTS,
        **hashes,
        "git_commit": git(root, "rev-parse", "HEAD"),
        "runner": "cluster",
        "settings": settings.model_dump_json(exclude={"tracking"}),
    }
    store = root.parent / "of-the-cluster.db"
    client = MlflowClient(*[f"sqlite:///{store}"] * 2)
    client.create_registered_model("flowers")
    return client.create_model_version("flowers", "file:///nowhere", tags=tags)


def reproduced(root: Path, **results: str) -> tuple[Reproduction, dict[str, Any], str]:
    """What comes out, what the commit's code was called with, and what was said."""
    (root.parent / "results").write_text(json.dumps({**RESULTS, **results}))
    said = io.StringIO()
    display = Display(Console(file=said, width=200), verbose=False)
    found = reproduce(root, of_cluster(root), display, on=RunnerName.LOCAL, keep=False)
    return found, json.loads((root.parent / "call").read_text()), said.getvalue()


def test_a_version_of_a_cluster_is_reproduced_here(project: Path) -> None:
    found, call, said = reproduced(project)
    assert found.same
    assert not found.environment
    assert call["command"] == ["run", "--on", "local"]
    # As they were, but for the store and the registry, which are the worktree's own.
    expected = load_settings(project / "params.yaml", CLUSTER).model_dump(mode="json")
    assert call["settings"].pop("tracking") == {
        "uri": None,
        "experiment": "reproduced",
        "model_name": "reproduced",
    }
    del expected["tracking"]
    del expected["registry"]  # nobody signs the new version
    assert call["settings"] == expected
    assert expected["extraction"]["shards"] == 2
    assert "MLFLOW_TRACKING_URI" not in call["environment"]
    pointers = [(project / f"{name}.dvc").read_text() for name in dvc.FOLDERS]
    assert [yaml.safe_load(text) for text in call["pointers"]] == list(
        map(yaml.safe_load, pointers)
    )
    # Nobody here knows the cluster's remote.
    assert "looking in the remote of-the-cluster" in said
    assert "looking in the remote sample" in said
    remote = json.loads(call["environment"][remotes.REMOTE])
    assert remote["url"].endswith("dvc-remote")
    assert list((project / "runs/reproduce").iterdir()) == []


def test_another_result_is_named(project: Path) -> None:
    found, _, _ = reproduced(project, test_macro_f1="0.8", torch="3")
    assert [row.name for row in found.results if not row.same] == ["test_macro_f1"]
    assert [row.name for row in found.environment] == ["torch build"]


def test_a_version_in_int8_is_refused_on_a_processor_without_the_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "has_int8", lambda: False)
    names = ("git_commit", "settings", "data_hash", "weights_hash")
    version = ModelVersion("flowers", "3", 0)
    version.tags.update(dict.fromkeys(names, "") | {"precision": "int8"})
    display = Display(Console(), verbose=False)
    with pytest.raises(UserError, match=r"flowers version 3 .* int8 .*vnni"):
        reproduce(tmp_path, version, display, on=RunnerName.DOCKER, keep=False)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_reproduction_left_is_ended_and_nobody_elses_process(project: Path) -> None:
    """Only recorded processes: a shell that someone opened in the folder is theirs."""
    scratch = project / "runs/reproduce"
    command = new_run(scratch, "abc")
    (command.folder / "lock").touch()
    step = new_run(command.folder / "worktree/runs", "abc")
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    started = [subprocess.Popen(sleep, cwd=command.folder) for _ in range(3)]
    recorded, orphan, shell = started
    command.process_started(recorded.pid)
    step.process_started(orphan.pid)
    try:
        remove_leftovers(project)
        recorded.wait(timeout=60)
        orphan.wait(timeout=60)
        assert shell.poll() is None
        assert list(scratch.iterdir()) == []
    finally:
        for process in started:
            process.kill()
            process.wait()
