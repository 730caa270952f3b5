from pathlib import Path

import pytest
import yaml

from crossfold.infra.object_store import VERSITYGW_FILE, ObjectStore
from crossfold.infra.services.compose import choose_store, read_environment, write_environment

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "services.env"
    write_environment(path)
    return path


@pytest.mark.parametrize("others", ["", ":compose.more.yaml"])
def test_a_store_is_a_file_of_compose(path: Path, others: str) -> None:
    if others:
        path.write_text(f"COMPOSE_FILE=compose.yaml{others}\n{path.read_text()}")
    before, said = read_environment(path), list[str]()
    choose_store(path, ObjectStore.VERSITYGW, said.append)
    chosen = {"COMPOSE_FILE": f"compose.yaml:{VERSITYGW_FILE}{others}"}
    assert read_environment(path) == before | chosen
    choose_store(path, ObjectStore.VERSITYGW, said.append)
    assert len(said) == 1
    choose_store(path, ObjectStore.MINIO, said.append)
    assert read_environment(path) == before | {"COMPOSE_FILE": f"compose.yaml{others}"}
    choose_store(path, ObjectStore.MINIO, said.append)
    assert len(said) == 2


def test_a_file_that_compose_reads_by_itself_stays(path: Path) -> None:
    path.with_name("compose.override.yaml").touch()
    choose_store(path, ObjectStore.VERSITYGW, print)
    files = f"compose.yaml:{VERSITYGW_FILE}:compose.override.yaml"
    assert read_environment(path)["COMPOSE_FILE"] == files


def test_a_new_services_env_needs_no_file_for_minio(path: Path) -> None:
    before = path.read_text()
    choose_store(path, ObjectStore.MINIO, print)
    assert path.read_text() == before


def test_services_and_cluster_run_the_same_versitygw() -> None:
    services = yaml.safe_load((PROJECT / VERSITYGW_FILE).read_text())["services"]
    manifests = PROJECT / "manifests" / "versitygw"
    (patch,) = yaml.safe_load((manifests / "container.yaml").read_text())
    assert patch["value"]["image"] == services["minio"]["image"]
    job = yaml.safe_load((manifests / "buckets.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert variables == services["buckets"]["environment"]
