import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from crossfold.registry import promotion_lock
from crossfold.registry.promotion_lock import promotion_turn
from tests.pipeline.projects import wait_until

NUM_PROCESSES, NUM_TURNS = 4, 5
HOLDER = "promotion_turn.x"  # sorts after every other process's tag, so those wait with theirs


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    MlflowClient(uri, uri).create_registered_model("animals", {"count": "0"})
    return uri


def test_turns_exclude_each_other(uri: str) -> None:
    """Reading and writing a number is not atomic: without turns, counts would be lost."""

    def count(_: int) -> None:
        client = MlflowClient(uri, uri)
        for _turn in range(NUM_TURNS):
            with promotion_turn(client, "animals"):
                number = int(client.get_registered_model("animals").tags["count"])
                client.set_registered_model_tag("animals", "count", str(number + 1))

    with ThreadPoolExecutor(NUM_PROCESSES) as threads:
        list(threads.map(count, range(NUM_PROCESSES)))
    tags = MlflowClient(uri, uri).get_registered_model("animals").tags
    assert tags == {"count": str(NUM_PROCESSES * NUM_TURNS)}


def test_a_turn_ends_with_its_block_however_that_ends(uri: str) -> None:
    client = MlflowClient(uri, uri)
    with pytest.raises(ZeroDivisionError), promotion_turn(client, "animals"):
        assert len(client.get_registered_model("animals").tags) == 2
        raise ZeroDivisionError
    assert client.get_registered_model("animals").tags.keys() == {"count"}


@pytest.mark.parametrize("hours", [-24, 24])
def test_the_turn_of_a_killed_process_expires(
    uri: str, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever time of day its machine had: an earlier release wrote that into the tag."""
    monkeypatch.setattr(promotion_lock, "_LEASE", 0.5)
    client = MlflowClient(uri, uri)
    client.set_registered_model_tag("animals", "promotion_turn.0", str(time.time() + hours * 3600))
    with promotion_turn(client, "animals"):
        assert "promotion_turn.0" not in client.get_registered_model("animals").tags


def test_a_process_that_waits_shows_that_it_lives(uri: str) -> None:
    """Its tag changes with each look at the others, so nobody takes it for a killed one's."""
    client = MlflowClient(uri, uri)
    client.set_registered_model_tag("animals", HOLDER, "0")
    seen: set[str] = set()

    def waits() -> bool:
        tags = client.get_registered_model("animals").tags
        seen.update(value for tag, value in tags.items() if tag not in ("count", HOLDER))
        return len(seen) > 1

    def take_turn() -> None:
        with promotion_turn(MlflowClient(uri, uri), "animals"):
            pass

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(take_turn)
        wait_until(waits)
        client.delete_registered_model_tag("animals", HOLDER)
        waiting.result()
