"""Keep track of the runs on this machine: their files, states, processes and containers."""

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from crossfold.errors import UserError
from crossfold.step.files import replaced_whole

HOME = "runs"  # the folder in a project
FINISHED = "finished"
RUNNING = "running"
FAILED = "failed"
INTERRUPTED = "interrupted"


@dataclass
class Run:
    """A run's state, kept in run.json in its folder.

    `request` is a hash of the settings, pointers and code that the run began with.
    `pipeline` is a hash of everything that the compiled pipeline depends on, once it is compiled.
    `steps` maps the title of each finished step to its output folder, relative to the folder of all
    runs, since the project may be moved. `processes` maps the process ids of running steps to their
    start times, since ids are reused. `containers` lists the container ids of running steps.
    `number` orders the runs of a project: the clock may be set back between two of them.
    """

    id: str
    folder: Path
    fingerprint: str
    started: float
    status: str = RUNNING
    request: str = ""
    pipeline: str = ""
    steps: dict[str, str] = field(default_factory=dict)
    processes: dict[int, float] = field(default_factory=dict)
    containers: list[str] = field(default_factory=list)
    number: int = 0  # of a run of an earlier release

    def __post_init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a signal's handler may interrupt its holder

    def save(self) -> None:
        """Write run.json completely or not at all."""
        values = asdict(self)
        del values["folder"]
        with replaced_whole(self.folder / "run.json") as part:
            part.write_text(json.dumps(values, indent=1))

    def _save_if_possible(self) -> None:
        """Save the run; a full disk keeps the old record, whose stale entries do no harm."""
        with contextlib.suppress(OSError):
            self.save()

    def compiled(self, pipeline: str) -> None:
        """Record that the pipeline is compiled."""
        with self._lock:
            self.pipeline = pipeline
            self.save()

    def process_started(self, pid: int) -> None:
        """Record a step's process, so that a later run can end it if this one is killed."""
        with self._lock:
            self.processes[pid] = psutil.Process(pid).create_time()
            self.save()

    def process_ended(self, pid: int) -> None:
        """Forget a step's process."""
        with self._lock:
            self.processes.pop(pid, None)  # it may have ended before it could be recorded
            self._save_if_possible()

    def container_created(self, container_id: str) -> None:
        """Record a step's container, so that a later run can remove it if this one is killed."""
        with self._lock:
            self.containers.append(container_id)
            self.save()

    def container_removed(self, container_id: str) -> None:
        """Forget a step's container."""
        with self._lock:
            if container_id in self.containers:  # an interrupt may have removed it already
                self.containers.remove(container_id)
            self._save_if_possible()

    def step_done(self, title: str, folder: Path) -> None:
        """Record the output folder of a finished step."""
        with self._lock:
            self.steps[title] = os.path.relpath(folder, self.folder.parent)
            self.save()

    def outputs(self, title: str) -> Path:
        """Locate the output folder of a finished step."""
        return self.folder.parent / self.steps[title]

    def end(self, status: str) -> None:
        """Record how the run ended."""
        with self._lock:
            self.status = status
            self._save_if_possible()

    def end_processes(self) -> None:
        """End the processes that are still recorded, and their descendants."""
        with self._lock:
            end_all([p for pid, created in self.processes.items() for p in _tree(pid, created)])
            self.processes.clear()
            self.save()


def end_all(processes: list[psutil.Process]) -> None:
    """Terminate processes, and kill those that still run after five seconds."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, stubborn = psutil.wait_procs(processes, timeout=5)
    for process in stubborn:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _tree(pid: int, created: float) -> list[psutil.Process]:
    """List a process and its descendants; empty if the id now names another process or none."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) > 1:
            return []
        return [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return []


def new_run(home: Path, fingerprint: str) -> Run:
    """Create a run with a new folder."""
    now = time.time()
    number = max((run.number for run in all_runs(home)), default=0) + 1
    name = f"{datetime.fromtimestamp(now):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    run = Run(name, home / name, fingerprint, now, number=number)
    run.folder.mkdir(parents=True)
    run.save()
    return run


def all_runs(home: Path) -> list[Run]:
    """List the recorded runs, oldest first."""
    runs = [load_run(path) for path in home.glob("*/run.json")]
    return sorted(runs, key=lambda run: (run.number, run.started))


def load_run(path: Path) -> Run:
    """Read a run.json; ignore unknown fields, which another commit's code may have written."""
    known = {entry.name for entry in fields(Run)}
    content: dict[str, Any] = json.loads(path.read_text())
    values = {name: value for name, value in content.items() if name in known}
    values["folder"] = path.parent
    values["processes"] = {int(pid): created for pid, created in values["processes"].items()}
    return Run(**values)


def choose_run(home: Path, fingerprint: str, *, caching: bool) -> Run:
    """Continue the last run if it is unfinished and has the same inputs, else create a new one.

    Without caching, always create a new one.
    """
    last = all_runs(home)[-1:]
    if caching and last and last[0].status != FINISHED and last[0].fingerprint == fingerprint:
        last[0].end(RUNNING)
        return last[0]
    return new_run(home, fingerprint)


@contextlib.contextmanager
def only_run(home: Path) -> Iterator[None]:
    """Hold the lock on `home`, since two runs at once would share its stores.

    Raises:
        UserError: another run holds it.
    """
    lock = FileLock(home / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another run uses {home}: wait for it to end, or stop it (Ctrl-C in its terminal)"
        ) from None
    try:
        yield
    finally:
        lock.release()
