"""`crossfold cluster` and clusters that it cannot use."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossfold.errors import UserError
from crossfold.infra.cluster.lifecycle import _refuse_another_kubeflow

from ..docker.services import free_port
from ..pipeline.projects import SCRIPTS, SOURCE
from .cluster import TestCluster
from .services import OURS

FILES = ("kubeflow/steps.yaml", "kubeflow/network.yaml", "kubeflow/quota.yaml", "kind/network.yaml")


def crossfold(*arguments: str, status: int, **environment: str) -> str:
    """Run `crossfold cluster`, check how it ends, and return what it says."""
    done = subprocess.run(
        [SCRIPTS / "crossfold", "cluster", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=SOURCE,
    )
    assert done.returncode == status, done.stdout
    assert "Traceback" not in done.stdout
    return done.stdout


@pytest.mark.parametrize("name", ["up", "status"])
def test_a_context_that_kubectl_does_not_know(cluster: TestCluster, name: str) -> None:
    said = crossfold(name, "--context", "nowhere", status=2)
    assert "kubectl has no context nowhere; it has: " in said
    assert cluster.context in said


@pytest.mark.parametrize("name", ["up", "status"])
def test_a_cluster_that_does_not_answer(cluster: TestCluster, name: str, tmp_path: Path) -> None:
    gone: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "gone", "cluster": {"server": f"https://127.0.0.1:{free_port()}"}}],
        "contexts": [{"name": "gone", "context": {"cluster": "gone", "user": "gone"}}],
        "users": [{"name": "gone", "user": {"token": "none"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(gone))
    said = crossfold(name, "--context", "gone", status=2, KUBECONFIG=str(path))
    assert "failed in context gone: The connection to the server 127.0.0.1" in said
    assert "was refused" in said


def test_a_cluster_without_kind_needs_a_registry(cluster: TestCluster, tmp_path: Path) -> None:
    config = yaml.safe_load(cluster.kubectl("config", "view", "--raw"))
    for context in config["contexts"]:
        context["name"] = "elsewhere"
    path = tmp_path / "kubeconfig"
    path.touch(0o600)
    path.write_text(yaml.safe_dump({**config, "current-context": "elsewhere"}))
    said = crossfold("up", "--context", "elsewhere", status=2, KUBECONFIG=str(path))
    assert said.startswith("error: elsewhere ")
    assert "--registry" in said


def test_a_kubeflow_of_somebody_else_is_left_alone(cluster: TestCluster) -> None:
    there = cluster.get("deployment", "ml-pipeline", "--namespace=kubeflow")
    if there:
        pytest.fail("the cluster for tests has a Kubeflow: these tests would change it", False)
    # Marked as of the tests: it may be deleted, and is no reason for `services` to stop.
    metadata = {"name": "kubeflow", "labels": {OURS: "true"}}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    labels = {"app": "ml-pipeline"}
    container = {"name": "server", "image": "none"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    foreign = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "ml-pipeline", "namespace": "kubeflow"},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
    }
    if not cluster.get("namespace", "kubeflow"):
        cluster.apply([namespace])
    cluster.kubectl("create", "--filename=-", given=yaml.safe_dump(foreign))
    try:
        with pytest.raises(UserError, match="already has Kubeflow Pipelines"):
            _refuse_another_kubeflow(cluster)
        cluster.kubectl("delete", "deployment", "ml-pipeline", "--namespace=kubeflow")
        cluster.apply([foreign])
        _refuse_another_kubeflow(cluster)  # that one is ours
    finally:
        cluster.kubectl(
            "delete", "deployment", "ml-pipeline", "--namespace=kubeflow", "--ignore-not-found"
        )


@pytest.mark.parametrize("file", FILES)
def test_what_kubeflow_gets_from_us_fits_the_apis_schema(cluster: TestCluster, file: str) -> None:
    for found in yaml.safe_load_all((SOURCE / "manifests" / file).read_text()):
        found["metadata"]["namespace"] = "default"
        options = ("--dry-run=server", "--validate=strict", "--filename=-")
        said = cluster.kubectl("apply", *options, given=yaml.safe_dump(found))
        assert said.endswith("(server dry run)\n")
