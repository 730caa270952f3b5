"""A cluster backed up, destroyed and restored: all that it had is there. Then with faults."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossfold.errors import UserError
from crossfold.infra.backups.backup_folder import BackupFile, Manifest
from crossfold.infra.cluster.addresses import KUBEFLOW

from ..docker.services import wait
from ..pipeline.projects import SCRIPTS, SOURCE
from .services import Services
from .test_command import crossfold

# The first test also makes images, cluster and services if no other test did.
pytestmark = pytest.mark.timeout(3600)

BUCKETS = ("dvc", "mlflow", "pipelines")
DATABASES = ("mlpipeline", "metadb")

# As Kubeflow's: keys from table to table, text of any language, bytes.
KUBEFLOW_ROWS = """
CREATE DATABASE mlpipeline;
CREATE TABLE mlpipeline.run_details (UUID varchar(191) PRIMARY KEY, Name longtext);
CREATE TABLE mlpipeline.tasks (UUID varchar(191) PRIMARY KEY, RunUUID varchar(191) NOT NULL,
  Fingerprint varchar(255), CONSTRAINT tasks_run FOREIGN KEY (RunUUID)
  REFERENCES mlpipeline.run_details (UUID) ON DELETE CASCADE);
INSERT INTO mlpipeline.run_details VALUES ('a', 'größer'), ('b', 'a line\\nand; another');
INSERT INTO mlpipeline.tasks VALUES ('t', 'a', 'f');
CREATE DATABASE metadb;
CREATE TABLE metadb.Artifact (id int AUTO_INCREMENT PRIMARY KEY, uri text, proto mediumblob);
INSERT INTO metadb.Artifact (uri, proto) VALUES ('minio://pipelines/v2/a', x'00ff1a27');
"""

REGISTER = """
import mlflow, os
os.chdir("/tmp")
client = mlflow.MlflowClient()
run = client.create_run(client.create_experiment("backup"))
for step in range(3):
    client.log_metric(run.info.run_id, "loss", 1 / (step + 1), step=step)
client.log_param(run.info.run_id, "umlaut", "größer")
client.log_text(run.info.run_id, "of the run " * 1000, "notes/größer.txt")
model = client.create_logged_model(run.info.experiment_id, "digits", source_run_id=run.info.run_id)
os.makedirs("weights", exist_ok=True)
with open("weights/weights.bin", "wb") as file:
    file.write(os.urandom(7_000_000))
client.log_model_artifacts(model.model_id, "weights")
client.create_registered_model("digits")
for alias in ("challenger", "champion"):
    source = (model.model_uri, run.info.run_id)
    version = client.create_model_version("digits", *source, model_id=model.model_id)
    client.set_registered_model_alias("digits", alias, version.version)
client.set_terminated(run.info.run_id)
"""

READ = """
import json, mlflow
client = mlflow.MlflowClient()
experiment = client.get_experiment_by_name("backup")
(run,) = client.search_runs([experiment.experiment_id])
history = client.get_metric_history(run.info.run_id, "loss")
versions = client.search_model_versions("name='digits'")
found = [run.to_dictionary(), list(map(vars, history)), list(map(vars, versions))]
print(json.dumps([*found, client.get_registered_model("digits").aliases], default=str))
"""


def contents(services: Services) -> dict[str, Any]:
    """Return all that a user has there, by MLflow's answers, the rows and the objects' bytes."""
    dump = ("mysqldump", "--skip-comments", "--hex-blob", "--databases", *DATABASES)
    return {
        "answers": json.loads(services.python(READ)),
        "users": services.psql("SELECT username, is_admin FROM auth.users ORDER BY username"),
        "kubeflow": services.mysql(*dump),
        **{bucket: services.objects_of(bucket) for bucket in BUCKETS},
    }


def replicas(services: Services) -> dict[str, int]:
    found = [
        deployment
        for namespace in ("mlflow", KUBEFLOW)
        for deployment in services.cluster.items("deployments", f"--namespace={namespace}")
    ]
    return {item["metadata"]["name"]: item["spec"]["replicas"] for item in found}


RUNNING = {"mlflow": 2, "mysql": 1, "workflow-controller": 1}


@pytest.fixture(scope="module")
def before(services: Services) -> dict[str, Any]:
    """What is there when the backup is written."""
    services.python(REGISTER)
    services.mysql("mysql", f"--execute={KUBEFLOW_ROWS}")
    for bucket in BUCKETS:
        client = services.s3(bucket)
        for number in range(10):  # the first is empty
            client.put_object(Bucket=bucket, Key=f"files/md5/{number:02}/aa", Body=b"a" * number)
    return contents(services)


@pytest.fixture(scope="module")
def backup(
    services: Services, before: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("kept") / "backup"
    started = [pod["metadata"]["uid"] for pod in services.cluster.pods("mlflow", "mlflow")]
    crossfold("backup", str(folder), status=0)
    assert [p["metadata"]["uid"] for p in services.cluster.pods("mlflow", "mlflow")] == started
    assert Manifest.read(folder / "manifest.json").kubeflow == DATABASES
    secrets = [secret.encode() for secret in services.secrets()]
    for path in folder.iterdir():
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret in content], path.name
    return folder


def test_a_backup_brings_back_what_was_destroyed(
    services: Services, before: dict[str, Any], backup: Path
) -> None:
    passwords = services.secrets()
    services.destroy()
    services.apply(services.objects())
    assert not passwords & services.secrets()
    crossfold("restore", str(backup), status=0)
    assert contents(services) == before
    assert replicas(services) == RUNNING
    assert services.cluster.get("pod", "backup", "--namespace=minio") == {}


@pytest.fixture
def step(services: Services) -> Iterator[str]:
    """A pod that passes for a step of a run."""
    label = ("label", "pod", "client", f"--namespace={KUBEFLOW}")
    services.cluster.kubectl(*label, "workflows.argoproj.io/workflow=crossfold-x")
    yield "client"
    services.cluster.kubectl(*label, "workflows.argoproj.io/workflow-")


def test_what_must_not_be_restored_touches_nothing(
    services: Services, before: dict[str, Any], backup: Path, step: str, tmp_path: Path
) -> None:
    assert "cluster restore --replace" in crossfold("restore", str(backup), status=2)
    assert step in crossfold("restore", "--replace", str(backup), status=2)
    damaged = Path(shutil.copytree(backup, tmp_path / "damaged"))
    with (damaged / "kubeflow.sql").open("r+b") as file:
        file.seek(300)
        file.write(b"?")
    assert "kubeflow.sql" in crossfold("restore", "--replace", str(damaged), status=2)
    assert "exists" in crossfold("backup", str(backup), status=2)
    assert contents(services) == before


def test_a_restore_that_fails_halfway_changes_no_database(
    services: Services, before: dict[str, Any], backup: Path, tmp_path: Path
) -> None:
    failing = Path(shutil.copytree(backup, tmp_path / "failing"))
    change(failing, "mlflow.sql", b"\nSELECT no_such_function();\nCOMMIT;\n")
    change(failing, "kubeflow.sql", b"\nDROP TABLE mlpipeline.tasks;\n")
    assert "no_such_function" in crossfold("restore", "--replace", str(failing), status=2)
    wait(lambda: services.ready("mlflow"), 180)
    assert contents(services) == before
    assert replicas(services) == RUNNING


def change(folder: Path, name: str, end: bytes) -> None:
    """Append to a file of a backup, as if it had been written so."""
    path = folder / name
    path.write_bytes(path.read_bytes().removesuffix(b"\nCOMMIT;\n") + end)
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    changed = BackupFile(name=name, num_bytes=len(content), sha256=sha256)
    manifest = Manifest.read(folder / "manifest.json")
    files = tuple(changed if file.name == name else file for file in manifest.files)
    manifest.model_copy(update={"files": files}).write(folder / "manifest.json")


def test_after_a_killed_restore_nothing_starts_until_it_is_repeated(
    services: Services, before: dict[str, Any], backup: Path
) -> None:
    command = [str(SCRIPTS / "crossfold"), "cluster", "restore", "--replace", str(backup)]
    with subprocess.Popen(
        command, cwd=SOURCE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout
        assert any("restoring the bucket" in line for line in process.stdout)
        os.killpg(process.pid, signal.SIGKILL)
    assert replicas(services) == {**RUNNING, "mlflow": 0, "workflow-controller": 0}
    with pytest.raises(UserError, match="cluster restore --replace"):
        services.apply(services.objects())
    assert "delete pod/backup -n minio" in crossfold("restore", str(backup), status=2)
    delete_pod(services)
    crossfold("restore", "--replace", str(backup), status=0)
    assert replicas(services) == RUNNING
    assert contents(services) == before


def delete_pod(services: Services) -> None:
    """Delete what a killed command leaves."""
    services.cluster.kubectl("delete", "pod/backup", "--namespace=minio", "--ignore-not-found")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_backup_is_none(
    services: Services, before: dict[str, Any], tmp_path: Path, how: signal.Signals
) -> None:
    part = tmp_path / ".interrupted.part"
    command = [str(SCRIPTS / "crossfold"), "cluster", "backup", str(tmp_path / "interrupted")]
    process = subprocess.Popen(command, cwd=SOURCE, start_new_session=True)
    try:
        wait((part / "bucket-dvc.tar").exists, 300)
    finally:
        os.killpg(process.pid, how)  # as a terminal does
        assert process.wait(60) != 0
        if how == signal.SIGKILL:
            delete_pod(services)
    assert not (tmp_path / "interrupted").exists()
    assert part.exists() == (how == signal.SIGKILL)
    if part.exists():
        crossfold("restore", "--replace", str(part), status=2)
