"""The sample as it is shipped: every step in its container, data and runs in the services."""

import json
from pathlib import Path

from ..pipeline.projects import sample_project
from .services import Services


def test_the_sample_in_containers_against_the_services(
    tmp_path: Path, images: dict[str, str], services: Services
) -> None:
    project = sample_project(tmp_path / "project")
    project.call("dvc", "remote", "modify", "minio", "endpointurl", services.s3_endpoint)
    with project.exported(services.environment()):
        project.call("dvc", "push", "--remote", "minio")
        project.call("crossfold", "run", "--on", "docker", "--set", "data.remote=minio")
    test = json.loads((project.root / "reports/last/metrics.json").read_text())["test"]
    assert test["macro_f1"] >= 0.93
    assert not (project.root / "dvc-remote").exists()
