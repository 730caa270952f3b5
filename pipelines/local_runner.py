"""Running the compiled pipeline on this machine, each step a process, by Kubeflow's local runner.

Kubeflow's own runner and cache do the work. They offer no way to see which step runs, to stop it,
to say why one failed, or to learn of a cache hit; `_StepHandler` and `_StepCache`
are the small subclasses that do.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import psutil
from kfp import components, local
from kfp.local import cache, subprocess_task_handler
from kfp.local.status import Status

from crossfold import step
from pipelines.display import Display
from pipelines.failures import Interrupted, StepError
from pipelines.runs import Run, end_all


class Session:
    """One run of the pipeline: what its steps share.

    A failed step is not repeated here, whatever the pipeline says for the cluster: running again
    costs nothing, since no finished step is repeated.
    """

    def __init__(self, run: Run, display: Display, environment: dict[str, str]) -> None:
        self.run = run
        self.display = display
        self.environment = environment
        self.reused: list[step.Record] = []
        self.failure: StepError | None = None
        self._stopping = False

    def run_step(self, command: list[str]) -> None:
        """Run a step's process to its end; its output goes to its log.

        Raises:
            StepError: the step failed, or it must not start since another one has.
        """
        if self.failure or self._stopping:
            raise StepError("not started: the run is ending")
        title, folder = _describe(command)
        self.display.started(title)
        started = time.monotonic()
        log = self.run.folder / f"{title.replace(' ', '-')}.log"
        status = self._run_process(command, title, log)
        if self._stopping:
            raise StepError("interrupted")
        if status != 0:
            reason = _reason(folder, status)
            self.display.failed(title)
            self.failure = StepError(f"{title}: {reason}\nThe step's whole log: {log}")
            raise self.failure
        self.run.step_done(title, folder)
        self.display.finished(title, time.monotonic() - started)

    def _run_process(self, command: list[str], title: str, log: Path) -> int:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=self.environment,
            start_new_session=True,  # a terminal's Ctrl-C is ours to pass on
        )
        self.run.process_started(process.pid)
        if self._stopping:  # the signal came after it was last looked at
            os.killpg(process.pid, signal.SIGTERM)
        with process, log.open("a") as file:
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                file.flush()
                self.display.output(title, line)
        self.run.process_ended(process.pid)
        return process.returncode

    def step_reused(self, folder: Path) -> None:
        """Take note of a step that the cache answered with the outputs in `folder`."""
        record = step.Record.read(folder)
        title = step.title(record.step, record.fold)
        self.run.step_done(title, folder)
        if record.run_id == self.run.id:
            self.display.reused(title, "done before the interruption")
        else:
            self.reused.append(record)
            self.display.reused(title, f"unchanged since run {record.run_id}")

    def stop(self) -> None:
        """End every process and start no more."""
        self._stopping = True
        end_all(psutil.Process().children(recursive=True))


def _describe(command: list[str]) -> tuple[str, Path]:
    """Return a step's title and the folder of its outputs, from Kubeflow's command for it."""
    inputs = json.loads(command[command.index("--executor_input") + 1])
    name = command[command.index("--function_to_execute") + 1]
    fold = inputs["inputs"].get("parameterValues", {}).get("fold")
    return step.title(name, fold), Path(inputs["outputs"]["outputFile"]).parent


def _reason(folder: Path, status: int) -> str:
    """Return why a step's process ended with a status other than 0, in a line."""
    # Kubeflow starts Python by a shell, which says by a status above 128 that a signal ended it.
    signum = -status if status < 0 else status - 128
    if signum > 0:
        return f"was ended by {signal.Signals(signum).name}, perhaps for want of memory"
    record = step.Record.read(folder) if (folder / step.RECORD).exists() else None
    return record.error if record and record.error else f"ended with status {status}"


class _StepHandler(subprocess_task_handler.SubprocessTaskHandler):  # type: ignore[misc]
    """Kubeflow's handler of one task, with our process instead of its own."""

    session: ClassVar[Session]

    def validate_image(self, image: str) -> None:
        """Accept any image: the step runs in this environment, which has what the image has."""

    def run(self) -> Status:
        """Run the task's command."""
        command = subprocess_task_handler.replace_python_executable(
            self.full_command, sys.executable
        )
        self.session.run_step(command)
        return Status.SUCCESS


class _StepCache(cache.LocalCache):  # type: ignore[misc]  # kfp has no types
    """Kubeflow's cache, telling of its hits."""

    session: ClassVar[Session]

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the outputs that are kept under a key, if their files are still there."""
        outputs: dict[str, Any] | None = super().get(key)
        if outputs is not None:
            uri = next(value.uri for value in outputs.values() if hasattr(value, "uri"))
            self.session.step_reused(Path(uri).parent)
        return outputs


def run_pipeline(
    package: Path, arguments: dict[str, Any], session: Session, home: Path, *, caching: bool
) -> None:
    """Run a compiled pipeline to its end.

    Raises:
        StepError: a step failed.
        Interrupted: a signal asked to stop; no process is left.
    """
    run = session.run
    _StepHandler.session = _StepCache.session = session
    subprocess_task_handler.SubprocessTaskHandler = _StepHandler
    cache.LocalCache = _StepCache
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(home / "pipeline"),
        workspace_root=str(run.folder / "workspace"),
        enable_caching=caching,
        cache_root=str(home / "cache"),
    )
    with (run.folder / "kubeflow.log").open("a") as log, _signals_stop(session):
        try:
            with contextlib.redirect_stdout(log), warnings.catch_warnings():
                # Limits and display names mean something on the cluster only.
                warnings.filterwarnings("ignore", message=".*have no effect in the current local")
                components.load_component_from_file(str(package))(**arguments)
        except Exception as error:
            raise (session.failure or error) from None


@contextlib.contextmanager
def _signals_stop(session: Session) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal end the steps, then the run."""

    def stop(signum: int, _: FrameType | None) -> None:
        if signum == signal.SIGHUP:  # the terminal is gone, and writing to it would fail
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
        session.stop()
        raise Interrupted(signum)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {signum: signal.signal(signum, stop) for signum in signals}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
