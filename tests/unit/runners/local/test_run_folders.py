import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from crossfold.runners.local.run_folders import (
    FINISHED,
    INTERRUPTED,
    RUNNING,
    all_runs,
    choose_run,
    end_all,
    new_run,
)

SLEEP = "print('ready', flush=True); import time; time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
PARENT = (
    "import subprocess, sys\n"
    f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}], stdout=subprocess.PIPE)\n"
    "child.stdout.readline(); print(child.pid, flush=True); child.wait()"
)

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python on a program and wait for its first line; what is left is ended."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", program]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = new_run(tmp_path, "abc")
    run.step_done("train_fold 0", tmp_path / "outputs/0")
    run.step_done("fetch_data", tmp_path / "outputs/1")
    run.process_started(psutil.Process().pid)
    run.end(INTERRUPTED)
    (found,) = all_runs(tmp_path)
    assert dataclasses.asdict(found) == dataclasses.asdict(run)
    assert found.folder == tmp_path / run.id and found.fingerprint == "abc"
    assert found.outputs("train_fold 0") == tmp_path / "outputs/0"
    assert found.outputs("fetch_data") == tmp_path / "outputs/1"
    assert found.processes == {psutil.Process().pid: psutil.Process().create_time()}
    assert found.status == INTERRUPTED
    assert [path.name for path in run.folder.iterdir()] == ["run.json"]


def test_a_run_of_a_project_that_was_moved_has_its_outputs_there(tmp_path: Path) -> None:
    new_run(tmp_path / "before", "abc").step_done("fetch_data", tmp_path / "before/pipeline/1")
    (tmp_path / "before").rename(tmp_path / "after")
    (found,) = all_runs(tmp_path / "after")
    assert found.outputs("fetch_data") == tmp_path / "after/pipeline/1"
    found.save()
    assert "before" not in (found.folder / "run.json").read_text()


def test_a_run_is_on_the_disk_from_its_start(tmp_path: Path) -> None:
    run = new_run(tmp_path / "runs", "abc")
    assert json.loads((run.folder / "run.json").read_text())["status"] == RUNNING


def test_runs_are_listed_oldest_first_though_the_clock_was_set_back(tmp_path: Path) -> None:
    runs = [new_run(tmp_path, str(number)) for number in range(4)]
    for run, started in zip(runs, (4e9, 1.0, 3e9, 2.0), strict=True):
        run.started = started
        run.end(FINISHED)
    (tmp_path / "cache").mkdir()
    assert [run.fingerprint for run in all_runs(tmp_path)] == ["0", "1", "2", "3"]
    assert len({run.id for run in runs}) == 4


def test_runs_of_an_earlier_release_are_in_the_order_of_their_starts(tmp_path: Path) -> None:
    for number, started in enumerate((3.0, 1.0, 2.0)):
        run = new_run(tmp_path, str(number))
        run.started, run.number = started, 0
        run.save()
    new_run(tmp_path, "new")
    assert [run.fingerprint for run in all_runs(tmp_path)] == ["1", "2", "0", "new"]


def test_an_unfinished_run_from_the_future_does_not_hide_a_later_one(tmp_path: Path) -> None:
    future, present = new_run(tmp_path, "future"), new_run(tmp_path, "present")
    future.started += 1e9  # the clock was set back after it
    for run in (future, present):
        run.end(INTERRUPTED)
    assert choose_run(tmp_path, "present", caching=True).id == present.id


def test_a_process_that_ended_is_forgotten(tmp_path: Path, start: Start) -> None:
    run = new_run(tmp_path, "abc")
    process = start(SLEEP)
    run.process_started(process.pid)
    assert all_runs(tmp_path)[0].processes.keys() == {process.pid}
    run.process_ended(process.pid)
    assert all_runs(tmp_path)[0].processes == {}


def test_an_orphan_and_its_children_are_ended(tmp_path: Path, start: Start) -> None:
    process = start(PARENT)
    child = psutil.Process(int(first_line(process)))
    new_run(tmp_path, "abc").process_started(process.pid)
    (found,) = all_runs(tmp_path)  # as the next run does, from what is on the disk
    found.end_processes()
    assert process.wait(timeout=1) in (-signal.SIGTERM, 0)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert all_runs(tmp_path)[0].processes == {}


def test_another_process_with_an_orphans_id_is_left_alone(tmp_path: Path, start: Start) -> None:
    process = start(SLEEP)
    first_line(process)
    run = new_run(tmp_path, "abc")
    run.process_started(process.pid)
    run.processes[process.pid] -= 100  # the recorded one started earlier, and its id is used again
    run.save()
    all_runs(tmp_path)[0].end_processes()
    assert process.poll() is None
    assert all_runs(tmp_path)[0].processes == {}


def test_an_orphan_that_is_gone_is_no_trouble(tmp_path: Path, start: Start) -> None:
    process = start("print()")
    run = new_run(tmp_path, "abc")
    run.process_started(process.pid)
    process.wait()
    run.end_processes()
    assert all_runs(tmp_path)[0].processes == {}


@pytest.mark.slow
def test_a_process_that_will_not_end_is_killed(start: Start) -> None:
    stubborn, willing = start(STUBBORN), start(SLEEP)
    assert first_line(stubborn) == first_line(willing) == "ready"
    both = [psutil.Process(stubborn.pid), psutil.Process(willing.pid)]
    end_all(both)
    # The kernel may still be at it, but left alone they would sleep for a minute.
    _, alive = psutil.wait_procs(both, timeout=5)
    assert not alive
