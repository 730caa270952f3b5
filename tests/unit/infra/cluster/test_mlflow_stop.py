"""Which updates stop MLflow first, told by the calls of kubectl."""

import json
from pathlib import Path
from typing import Any

import pytest

from crossfold.infra.cluster.kubectl import Cluster
from crossfold.infra.cluster.mlflow_stop import stop_other_mlflow

from .machines import write_program


def deployment(image: str) -> dict[str, Any]:
    spec = {"template": {"spec": {"containers": [{"image": image}]}}}
    return {"kind": "Deployment", "metadata": {"name": "mlflow"}, "spec": spec}


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster with the image mlflow:1, and a pod until the servers are scaled to none."""
    (tmp_path / "deployment").write_text(json.dumps(deployment("mlflow:1")))
    log = tmp_path / "calls"
    script = f"""echo "$*" >> {log}
case "$*" in
  *" get deployment "*) /bin/cat {tmp_path}/deployment;;
  *" get pods "*) [ -e {tmp_path}/asked ] && echo '{{"items": []}}' ||
    {{ echo >> {tmp_path}/asked; echo '{{"items": [{{}}]}}'; }};;
esac"""
    write_program(tmp_path, "kubectl", script)
    monkeypatch.setenv("PATH", str(tmp_path))
    return log


def test_another_image_stops_the_servers_and_waits_for_their_end(calls: Path) -> None:
    stop_other_mlflow(Cluster("team"), [deployment("mlflow:2")], print)
    asked = calls.read_text().splitlines()
    assert [line.split("--request-timeout=60s ")[1].split()[0] for line in asked] == [
        *("get", "scale", "get", "get"),
    ]
    assert "--replicas=0" in asked[1]


def test_the_same_image_stops_nothing(calls: Path) -> None:
    stop_other_mlflow(Cluster("team"), [deployment("mlflow:1")], print)
    assert len(calls.read_text().splitlines()) == 1


def test_a_first_start_has_nothing_to_stop(calls: Path) -> None:
    (calls.parent / "deployment").write_text("")
    stop_other_mlflow(Cluster("team"), [deployment("mlflow:2")], print)
    assert len(calls.read_text().splitlines()) == 1
