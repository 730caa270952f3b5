"""What a restore starts after a failure, by the calls of kubectl; tests/cluster has a cluster."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from crossfold.errors import UserError
from crossfold.infra.backups.backup_folder import BackupFile, Manifest
from crossfold.infra.cluster.backup.commands import backup, restore
from crossfold.infra.cluster.backup.writers import REPLICAS
from crossfold.step.files import hash_file

from .machines import crossfold_cluster, write_program


def deployment(replicas: int, annotations: dict[str, str]) -> dict[str, Any]:
    metadata = {"name": "mlflow", "namespace": "mlflow", "annotations": annotations}
    template = {"spec": {"containers": [{"image": "mlflow:1"}]}}
    selector = {"matchLabels": {"app.kubernetes.io/name": "mlflow"}}
    spec = {"replicas": replicas, "selector": selector, "template": template}
    return {"kind": "Deployment", "metadata": metadata, "spec": spec}


RUNNING = deployment(2, {})
STOPPED = deployment(0, {REPLICAS: "2"})


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the Deployments before and after a patch, and the calls so far.

    The connection is lost while a bucket is restored, so that the pod `backup` cannot be deleted.
    """
    folder = tmp_path / "cluster"
    folder.mkdir()
    write_program(
        folder,
        "kubectl",
        f"""echo "$*" >> {folder}/calls
case "$*" in
  *"config get-contexts"*) echo team;;
  version*) echo '{{"clientVersion": {{"gitVersion": "v9.0.0"}}}}';;
  *"get deployment mlflow"*) echo '{json.dumps(RUNNING)}';;
  *"get deployments --namespace=mlflow"*) cat {folder}/deployments;;
  *"get pod/backup"*) ;;
  *" get "*) echo '{{"items": []}}';;
  *" patch "*) echo '{json.dumps({"items": [STOPPED]})}' > {folder}/deployments;;
  *revisions.py*) echo '{{"public.alembic_version": ["r"]}}';;
  *"objects.py load"*) . {folder}/load;;
  *" delete "*) echo "no connection" >&2; exit 1;;
esac""",
    )
    (folder / "load").write_text('echo "connection lost" >&2; exit 1')
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "backup"
    folder.mkdir()
    (folder / "bucket-dvc.tar").write_bytes(bytes(10240))
    sha256 = hash_file(folder / "bucket-dvc.tar")
    file = BackupFile(name="bucket-dvc.tar", num_bytes=10240, sha256=sha256)
    manifest = Manifest(created="now", crossfold="1", revision="r", buckets=("dvc",), files=(file,))
    manifest.write(folder / "manifest.json")
    return folder


def patches(cluster: Path) -> list[Any]:
    calls = (cluster / "calls").read_text().splitlines()
    return [json.loads(call.split("--patch=")[1]) for call in calls if " patch " in call]


def patch(replicas: int, before: str | None) -> dict[str, Any]:
    return {"metadata": {"annotations": {REPLICAS: before}}, "spec": {"replicas": replicas}}


def test_a_restore_that_fails_starts_what_it_stopped(cluster: Path, folder: Path) -> None:
    (cluster / "deployments").write_text(json.dumps({"items": [RUNNING]}))
    with pytest.raises(UserError, match="connection lost"):
        restore("team", folder, print, replace=True)
    assert patches(cluster) == [patch(0, "2"), patch(2, None)]


def test_a_repeated_restore_that_fails_starts_nothing(cluster: Path, folder: Path) -> None:
    (cluster / "deployments").write_text(json.dumps({"items": [STOPPED]}))
    with pytest.raises(UserError, match="connection lost"):
        restore("team", folder, print, replace=True)
    assert patches(cluster) == []


def test_a_terminated_restore_starts_what_it_stopped(cluster: Path, folder: Path) -> None:
    (cluster / "deployments").write_text(json.dumps({"items": [RUNNING]}))
    (cluster / "load").write_text("sleep 0.2; kill -TERM $PPID; exec sleep 20")
    arguments = ("restore", "--context", "team", "--replace", str(folder))
    done = crossfold_cluster(*arguments, path=Path(os.environ["PATH"]))
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert patches(cluster) == [patch(0, "2"), patch(2, None)]


def test_half_a_restore_is_not_backed_up(cluster: Path, tmp_path: Path) -> None:
    (cluster / "deployments").write_text(json.dumps({"items": [STOPPED]}))
    with pytest.raises(UserError, match="restore did not finish"):
        backup("team", tmp_path / "new", print)
    assert not (tmp_path / "new").exists()
    assert " create " not in (cluster / "calls").read_text()
