import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from kfp import dsl
from kfp.local import cache

from crossfold.cli.console import console
from crossfold.runners.display import Display
from crossfold.runners.failures import StepError
from crossfold.runners.local.backends.processes import _Process
from crossfold.runners.local.run_folders import all_runs, end_all, new_run
from crossfold.runners.local.session import Session, _StepCache
from crossfold.step.runtime import Record

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


TALKS = "import time\nwhile True: print('still at work', flush=True); time.sleep(0.01)"


class Talker:
    """A step at work that talks until it is stopped: a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", TALKS]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def output(self) -> Iterator[str]:
        assert self.process.stdout is not None
        yield from self.process.stdout

    def wait(self) -> str:
        self.process.wait()
        return ""

    def stop(self) -> None:
        end_all([psutil.Process(self.process.pid)])
        self.process.wait()


def command_of_a_step(tmp_path: Path, name: str) -> list[str]:
    """Kubeflow's command for a step, as far as a session reads it."""
    given = {"inputs": {}, "outputs": {"outputFile": str(tmp_path / "outputs/output.json")}}
    return ["--executor_input", json.dumps(given), "--function_to_execute", name]


def test_a_step_whose_log_meets_a_full_disk_is_ended_and_no_other_starts(tmp_path: Path) -> None:
    run = new_run(tmp_path, "abc")
    (run.folder / "fetch_data.log").symlink_to("/dev/full")
    session, talker = Session(run, Display(console, verbose=False), print), Talker()
    with pytest.raises(StepError, match=r"fetch_data\.log: .* MB"):
        session.run_step(command_of_a_step(tmp_path, "fetch_data"), lambda: talker)
    assert talker.process.poll() is not None
    with pytest.raises(StepError, match="not started"):
        session.run_step(command_of_a_step(tmp_path, "train_final"), Talker)
    assert run.steps == {}


class Done:
    """A step that has ended well."""

    def output(self) -> Iterator[str]:
        yield from ()

    def wait(self) -> str:
        return ""

    def stop(self) -> None:
        """Do nothing."""


def test_reused_steps_are_recorded_together_when_the_next_step_starts(tmp_path: Path) -> None:
    recorded: list[list[str]] = []
    run, display = new_run(tmp_path, "abc"), Display(console, verbose=False)
    session = Session(run, display, lambda steps: recorded.append([one.step for one in steps]))
    for name in ("fetch_data", "aggregate_cv"):
        Record(name, None, "of another run", 0).write(tmp_path)
        session.step_reused(tmp_path)
    for name in ("train_final", "evaluate_test"):
        session.run_step(command_of_a_step(tmp_path, name), Done)
    assert recorded == [["fetch_data", "aggregate_cv"]]
    Record("register_model", None, "of another run", 0).write(tmp_path)
    session.step_reused(tmp_path)
    assert [one.step for one in session.take_reused()] == ["register_model"]
    assert session.num_reused == 3


def test_a_step_that_cannot_be_recorded_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this run were killed, the next one would not know what to end."""
    talker = Talker()

    def start(*_: object) -> tuple[object, object]:
        return talker.process, None

    monkeypatch.setattr("crossfold.runners.local.backends.processes.start_step", start)
    run = new_run(tmp_path, "abc")
    (run.folder / "run.json.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        _Process([], {}, run)
    talker.process.wait(timeout=60)
    (run.folder / "run.json.part").symlink_to("/dev/full")
    run.end("failed")  # nor does this hide the error
    assert all_runs(tmp_path)[0].status == "running"
