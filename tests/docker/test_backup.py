"""MLflow backed up, destroyed, restored and upgraded to 3.18: all that it had is there."""

import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
from mlflow.tracking import MlflowClient

from crossfold.errors import UserError
from crossfold.infra.backups import mlflow_database
from crossfold.infra.backups.backup_folder import Manifest
from crossfold.infra.image_tags import MLFLOW, image_name
from crossfold.infra.services.compose_project import ComposeProject, compose_command

from ..pipeline.projects import SCRIPTS, Project, environment
from .services import HERE, Services, build, healthy, prepared, wait

NEXT = HERE.parent / "mlflow-3.18"
REVISION = "SELECT version_num FROM alembic_version"
USERS = "SELECT username, is_admin FROM auth.users ORDER BY username"
OLD, NEW = "dc11669786a5", "f4a9b2c7d1e6"  # of MLflow 3.17 and 3.18
# A table that the second of the upgrade's three revisions makes.
TABLE = "issue_categories"


@contextmanager
def client(services: Services) -> Iterator[MlflowClient]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in services.settings.items():
            if name.startswith("MLFLOW_TRACKING"):
                patch.setenv(name, value)
        yield MlflowClient(services.tracking_uri, services.tracking_uri)


def register_something(services: Services) -> None:
    with client(services) as mlflow:
        run = mlflow.create_run(mlflow.create_experiment("digits"))
        run_id = run.info.run_id
        for step in range(3):
            mlflow.log_metric(run_id, "loss", 1 / (step + 1), step=step)
        mlflow.log_param(run_id, "ümlaut", "größer")
        mlflow.log_text(run_id, "of the run " * 1000, f"{'deep/' * 30}größer.txt")
        model = mlflow.create_logged_model(run.info.experiment_id, "digits", source_run_id=run_id)
        (services.root / "weights").mkdir()
        (services.root / "weights" / "weights.bin").write_bytes(os.urandom(7_000_000))
        mlflow.log_model_artifacts(model.model_id, str(services.root / "weights"))
        mlflow.create_registered_model("digits")
        for alias in ("champion", "challenger"):
            version = mlflow.create_model_version(
                "digits", model.model_uri, run_id, model_id=model.model_id
            )
            mlflow.set_registered_model_alias("digits", alias, version.version)
        mlflow.set_terminated(run_id)
    for number in range(1, 20):
        key = f"files/md5/{number:02}/aa"
        services.s3().put_object(Bucket="dvc", Key=key, Body=b"data" * number)
    services.s3().put_object(Bucket="dvc", Key="empty", Body=b"")


def contents(services: Services) -> dict[str, Any]:
    """Return all that a user has there, by MLflow's answers and the objects' bytes."""
    with client(services) as mlflow:
        (experiment,) = mlflow.search_experiments(filter_string="name = 'digits'")
        (run,) = mlflow.search_runs([experiment.experiment_id])
        (model,) = mlflow.search_registered_models()
        return {
            "run": run.to_dictionary(),
            "loss": [vars(metric) for metric in mlflow.get_metric_history(run.info.run_id, "loss")],
            "aliases": model.aliases,
            "versions": [vars(found) for found in mlflow.search_model_versions("name='digits'")],
            "objects": {
                (bucket, key): content
                for bucket in ("mlflow", "dvc")
                for key, content in services.objects(bucket)
            },
            "users": services.psql(USERS),
        }


@dataclass(frozen=True)
class Filled:
    """Services with data, and all that they had at first."""

    services: Services
    before: dict[str, Any]


@pytest.fixture(scope="module")
def filled(
    engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Filled]:
    with prepared(tmp_path_factory.mktemp("backup"), engine) as services:
        services.up()
        register_something(services)
        yield Filled(services, contents(services))


@pytest.fixture(scope="module")
def backup(filled: Filled) -> Path:
    started = filled.services.container("mlflow").attrs["State"]["StartedAt"]
    Project(filled.services.root).call("crossfold", "backup", "kept/backup")
    assert filled.services.container("mlflow").attrs["State"]["StartedAt"] == started
    return filled.services.root / "kept" / "backup"


def test_a_backup_brings_back_what_was_destroyed(filled: Filled, backup: Path) -> None:
    services = filled.services
    services.destroy()
    path = services.root / "services.env"
    new_passwords = re.sub(r"\b[0-9a-f]{32}\b", lambda _: secrets.token_hex(16), path.read_text())
    path.write_text(new_passwords)
    Project(services.root).call("crossfold", "restore", str(backup))
    assert contents(services) == filled.before
    assert services.psql(REVISION) == [OLD]


def test_a_restore_that_dies_halfway_changes_nothing(
    filled: Filled, backup: Path, tmp_path: Path
) -> None:
    services = filled.services
    half = tmp_path / "mlflow.sql"
    sql = (backup / "mlflow.sql").read_bytes()
    half.write_bytes(sql[: sql.index(b"\nCOPY ")])
    project = ComposeProject.find(services.root, services.settings)
    with pytest.raises(UserError, match="as before"):
        mlflow_database.load(project, half)
    assert contents(services) == filled.before


def test_what_must_not_be_restored_touches_nothing(
    filled: Filled, backup: Path, tmp_path: Path
) -> None:
    services = filled.services
    started = services.container("mlflow").attrs["State"]["StartedAt"]

    def refusal(folder: Path, *options: str) -> str:
        command = ("crossfold", "restore", *options, str(folder))
        return Project(services.root).call(*command, status=2)

    assert "restore --replace" in refusal(backup)
    damaged = Path(shutil.copytree(backup, tmp_path / "damaged"))
    with (damaged / "bucket-dvc.tar").open("r+b") as file:
        file.seek(3000)
        file.write(b"?")
    assert "bucket-dvc.tar" in refusal(damaged, "--replace")
    newer = Path(shutil.copytree(backup, tmp_path / "newer"))
    manifest = Manifest.read(newer / "manifest.json")
    manifest.model_copy(update={"revision": "of-2030"}).write(newer / "manifest.json")
    assert "of-2030" in refusal(newer, "--replace")
    assert services.container("mlflow").attrs["State"]["StartedAt"] == started


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_backup_is_none(filled: Filled, how: signal.Signals) -> None:
    root = filled.services.root
    part = root / ".interrupted.part"
    command = [str(SCRIPTS / "crossfold"), "backup", "interrupted"]
    process = subprocess.Popen(command, cwd=root, env=environment(), start_new_session=True)
    wait((part / "bucket-dvc.tar").exists)
    os.killpg(process.pid, how)  # as a terminal does
    assert process.wait(60) != 0
    assert not (root / "interrupted").exists()
    assert part.exists() == (how == signal.SIGKILL)
    if part.exists():
        Project(root).call("crossfold", "restore", "--replace", str(part), status=2)


@dataclass(frozen=True)
class Upgrade:
    """What was there after a failed upgrade, and what the command said then and on success."""

    failure: str
    after_failure: dict[str, Any]
    revision_after_failure: list[str]
    image_after_failure: str
    old_image: str
    new_image: str
    success: str


@pytest.fixture(scope="module")
def upgrade(filled: Filled) -> Upgrade:
    services = filled.services
    old = f"crossfold-test-mlflow-3.17:{image_name(MLFLOW).rpartition(':')[2]}"
    services.engine.images.get(image_name(MLFLOW)).tag(old)  # for a server with another image
    new = build("mlflow-3.18", NEXT, f"--build-arg=IMAGE={image_name(MLFLOW)}")
    variables = {**environment(), **services.settings, "CROSSFOLD_MLFLOW_IMAGE": old}
    command = [*compose_command(), "up", "--detach"]
    subprocess.run(command, cwd=services.root, env=variables, check=True)
    wait(lambda: healthy(services.container("mlflow")))
    use_image(services, new)
    services.psql(f"CREATE TABLE {TABLE} (in_the_way int)")
    failure = Project(services.root).call("crossfold", "services", "up", status=2)
    wait(lambda: healthy(services.container("mlflow")))
    after_failure = contents(services)
    revision = services.psql(REVISION)
    image = services.container("mlflow").attrs["Config"]["Image"]
    services.psql(f"DROP TABLE {TABLE}")
    success = services.up()
    return Upgrade(failure, after_failure, revision, image, old, new, success)


def use_image(services: Services, image: str) -> None:
    """Let compose take another image for MLflow, as a newer version of Crossfold does."""
    (services.root / "next.yaml").write_text(f"services: {{mlflow: {{image: '{image}'}}}}\n")
    path = services.root / "services.env"
    files = "COMPOSE_FILE=compose.yaml:compose.test.yaml"
    path.write_text(path.read_text().replace(files, f"{files}:next.yaml"))


def test_a_failed_upgrade_leaves_the_data_and_the_earlier_server(
    filled: Filled, upgrade: Upgrade
) -> None:
    assert TABLE in upgrade.failure
    assert "Traceback" not in upgrade.failure
    assert upgrade.revision_after_failure == [OLD]
    assert upgrade.image_after_failure == upgrade.old_image
    assert upgrade.after_failure == filled.before


def test_an_upgrade_loses_nothing_and_keeps_a_backup(filled: Filled, upgrade: Upgrade) -> None:
    services = filled.services
    assert services.psql(REVISION) == [NEW]
    assert services.container("mlflow").attrs["Config"]["Image"] == upgrade.new_image
    assert contents(services) == filled.before
    kept = sorted((services.root / "backups").iterdir())
    assert [Manifest.read(folder / "manifest.json").revision for folder in kept] == [OLD, OLD]
    assert str(kept[1].relative_to(services.root)) in upgrade.success
