import base64
import json
import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from crossfold.cli import main


def test_the_clusters_mlflow_is_exported_for_the_commands_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = {
        "MLFLOW_TRACKING_URI": "http://mlflow.mlflow.svc.cluster.local:5000",
        "MLFLOW_TRACKING_USERNAME": "pipeline",
        "MLFLOW_TRACKING_PASSWORD": "it's",
        "MLFLOW_PAGES": "http://localhost:5001",
    }
    data = {name: base64.b64encode(value.encode()).decode() for name, value in login.items()}
    (tmp_path / "secret").write_text(json.dumps({"data": data}))
    version = json.dumps(json.dumps({"clientVersion": {"gitVersion": "v1.40.0"}}))
    kubectl = tmp_path / "kubectl"
    answers = (
        f"*get-contexts*) echo team;; *secret*) cat {tmp_path}/secret;; *version*) echo {version};;"
    )
    kubectl.write_text(f'#!/bin/sh\ncase "$*" in {answers} esac\n')
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    printed = CliRunner().invoke(main.app, ["cluster", "env", "--context", "team"])
    assert printed.exit_code == 0, printed.output
    shell = f"{printed.output}\nprintenv MLFLOW_TRACKING_URI MLFLOW_TRACKING_PASSWORD"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["http://localhost:5001", "it's"]
