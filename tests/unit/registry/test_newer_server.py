"""register_model against a server of the next version of MLflow."""

import shutil
import urllib.request
from pathlib import Path

import pytest

from tests.unit.mlflow_proxy import mlflow_server

from .test_lost_server import assert_whole
from .test_register import _register, _save_network
from .test_register import examples as examples

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]


def test_a_newer_server_gets_one_whole_version(
    tmp_path: Path,
    examples: Path,
    empty_store: Path,
    next_mlflow: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server also upgrades the store."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "newer server")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    shutil.copy(empty_store, tmp_path)
    good = _save_network(tmp_path / "good", examples, right=1)
    with mlflow_server(tmp_path, str(next_mlflow)) as port:
        address = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(f"{address}/version", timeout=20) as answer:
            assert answer.read() == b"3.18.0"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert [_register(monkeypatch, examples, good, floor=0).created for _ in range(2)] == [
            True,
            False,
        ]
        assert_whole(port, "newer server")
