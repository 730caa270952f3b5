"""register_model against a server that is lost at each of its writes, or whose answers are lost."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from crossfold.predict.file_hashes import TAG
from crossfold.registry import promotion_lock
from crossfold.tracking import store
from tests.unit.mlflow_proxy import Proxy, mlflow_server, proxy

from .test_register import _register, _save_network
from .test_register import examples as examples

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]


@pytest.fixture(scope="module")
def port(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder)
    with mlflow_server(folder) as port:
        yield port


@pytest.fixture
def network(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy(port) as network:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", network.address)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
        monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
        yield network


# The requests of register_model that change something, in their order: after each of them the
# server is lost in turn.
WRITES = (
    "experiments/create",
    "runs/create",
    "runs/log-batch",
    "registered-models/create",
    "mlflow/logged-models",
    "runs/outputs",
    "model-versions/create",
    "model-versions/set-tag",
    "registered-models/alias",
    "registered-models/set-tag",
    "registered-models/delete-tag",
    "model-versions/update",
    "runs/update",
)


def assert_whole(port: int, name: str) -> None:
    """One version with all its tags and aliases, and one run for each thing, all ended."""
    client = MlflowClient(f"http://127.0.0.1:{port}")
    (version,) = client.search_model_versions("name = 'colours'")
    version = client.get_model_version("colours", version.version)
    assert version.tags.keys() >= {"gate", "gate_verdict", "gate_run", "weights_hash", TAG}
    assert sorted(version.aliases) == ["challenger", "champion"]
    assert version.description
    model = client.get_registered_model("colours")
    assert not [tag for tag in model.tags if tag.startswith("promotion_turn")]
    experiment = client.get_experiment_by_name(name)
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["crossfold.kind"] for run in runs) == ["pipeline", "step"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    client.delete_registered_model("colours")


def test_a_lost_answer_to_every_write_makes_nothing_twice(
    tmp_path: Path, examples: Path, port: int, network: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow network, which is also cut for some seconds."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "lost answers")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    good = _save_network(tmp_path / "good", examples, right=1)
    network.every_answer_lost, network.delay = True, 0.2
    network.cut_at, network.cut_for = "model-versions/create", 5
    registered = _register(monkeypatch, examples, good, floor=0)
    assert registered.created
    assert [path for path in network.writes if path.endswith("model-versions/create")][1:]
    assert_whole(port, "lost answers")


def test_a_server_that_is_lost_after_any_write_leaves_one_whole_version(
    tmp_path: Path, examples: Path, port: int, network: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "lost server")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(promotion_lock, "_LEASE", 1)  # one try is lost in its turn
    good = _save_network(tmp_path / "good", examples, right=1)
    for write in WRITES:
        network.cut_at = write
        with pytest.raises(MlflowException) as caught:
            _register(monkeypatch, examples, good, floor=0)
        assert "has not answered" in store.lost_server(caught.value), write
        network.restore()
    _register(monkeypatch, examples, good, floor=0)
    assert {path.rpartition("mlflow/")[2] for path in network.writes} >= {
        write.removeprefix("mlflow/") for write in WRITES
    }
    assert_whole(port, "lost server")
