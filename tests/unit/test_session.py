from pathlib import Path

import pytest
from kfp import dsl
from kfp.local import cache

from pipelines.session import _StepCache

ARGUMENTS = ("train_fold", "crossfold-train:1", ["sh", "-c", "program"])


def at(home: Path, monkeypatch: pytest.MonkeyPatch) -> _StepCache:
    """The cache of a project's runs, as a run there has it."""
    monkeypatch.setattr(_StepCache, "home", home, raising=False)
    monkeypatch.setattr(cache, "LocalCache", _StepCache)
    return _StepCache(str(home / "cache"))


def output(home: Path, name: str) -> dsl.Artifact:
    path = home / "pipeline/run/fetch-data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
    return dsl.Artifact(name=name, uri=str(path), metadata={"bytes": 3})


def test_the_cache_of_a_project_that_was_moved_still_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    step_cache = at(before, monkeypatch)
    found = {"examples": output(before, "examples"), "shards": [output(before, "shard")], "n": 3}
    key = step_cache.compute_key(*ARGUMENTS, found)
    step_cache.put(key, found)

    before.rename(after)
    step_cache = at(after, monkeypatch)
    moved = super(_StepCache, step_cache).get(key)
    assert moved is not None
    assert Path(moved["examples"].path).read_text() == "examples"
    assert moved["examples"].path.startswith(f"{after}/")
    assert moved["examples"].metadata == {"bytes": 3}
    assert [Path(shard.path).read_text() for shard in moved["shards"]] == ["shard"]
    assert step_cache.compute_key(*ARGUMENTS, moved) == key

    Path(moved["examples"].path).unlink()
    assert super(_StepCache, step_cache).get(key) is None


def test_outputs_of_different_steps_have_different_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_cache = at(tmp_path, monkeypatch)
    keys = {
        step_cache.compute_key(*ARGUMENTS, {"given": output(tmp_path, name)})
        for name in ("examples", "backbone")
    }
    assert len(keys) == 2
