"""kind-cluster.yaml as kind itself reads it. No cluster is made: there is no such node image."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from ..pipeline.projects import SOURCE

CONFIG = SOURCE / "kind-cluster.yaml"
VERSION = "v0.33.0"
NO_IMAGE = "127.0.0.1:1/none:none"


@pytest.fixture(scope="module")
def kind(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command; built from its Go module if there is no kind."""
    if shutil.which("kind"):
        return ["kind"]
    return ["go", "run", f"sigs.k8s.io/kind@{VERSION}"]


def create(kind: list[str], config: Path) -> str:
    command = [*kind, "create", "cluster", "--name=crossfold-config", f"--image={NO_IMAGE}"]
    done = subprocess.run([*command, f"--config={config}"], capture_output=True, text=True)
    assert done.returncode != 0
    return done.stderr


def changed(config: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "kind-cluster.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_kind_accepts_it(engine: docker.DockerClient, kind: list[str]) -> None:
    said = create(kind, CONFIG)
    assert f'failed to pull image "{NO_IMAGE}"' in said  # the first thing after its checks


def test_it_would_refuse_an_unknown_field(
    engine: docker.DockerClient, kind: list[str], tmp_path: Path
) -> None:
    config = yaml.safe_load(CONFIG.read_text())
    config["nodes"][0]["extraPortMapping"] = config["nodes"][0].pop("extraPortMappings")
    assert "field extraPortMapping not found" in create(kind, changed(config, tmp_path))


def test_it_would_refuse_a_port_that_is_mapped_twice(
    engine: docker.DockerClient, kind: list[str], tmp_path: Path
) -> None:
    config = yaml.safe_load(CONFIG.read_text())
    mapped = config["nodes"][0]["extraPortMappings"]
    mapped[1]["hostPort"] = mapped[0]["hostPort"]
    assert "invalid configuration" in create(kind, changed(config, tmp_path))
