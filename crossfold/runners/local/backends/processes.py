"""Run steps as processes in this environment, with Kubeflow's SubprocessRunner."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import psutil
from kfp import local
from kfp.local import subprocess_task_handler
from kfp.local.status import Status

from crossfold.infra.image_tags import code_name
from crossfold.runners.base import RunnerName
from crossfold.runners.local.reuse import process_cache
from crossfold.runners.local.run_folders import Run, end_all
from crossfold.runners.local.session import Session, fault_of
from crossfold.settings import Settings

from .base import step_environment
from .fork_server import start_step


class Processes:
    """The backend that runs steps as processes in this environment."""

    name: ClassVar[RunnerName] = RunnerName.LOCAL

    def __init__(self, root: Path, settings: Settings) -> None:
        """Do nothing: this environment has everything that the steps need."""

    @property
    def cache_name(self) -> str:
        """Name the cache after the torch build installed here, which `image` does not cover."""
        return process_cache()

    def image(self, role: str) -> str:
        """Name the code, regardless of the images' base."""
        return code_name(role)

    @contextlib.contextmanager
    def kubeflow_runner(
        self, session: Session, package: Path, pipeline_root: Path
    ) -> Iterator[local.SubprocessRunner]:
        """Provide Kubeflow's runner with our task handler."""
        temporary = session.run.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        _StepHandler.session = session
        _StepHandler.environment = {
            **step_environment(session.run, os.environ),
            "TMPDIR": str(temporary),  # Kubeflow's launcher leaves a folder there for every step
        }
        subprocess_task_handler.SubprocessTaskHandler = _StepHandler
        yield local.SubprocessRunner(use_venv=False)


class _StepHandler(subprocess_task_handler.SubprocessTaskHandler):  # type: ignore[misc]
    """Handle a task with our process instead of Kubeflow's own."""

    session: ClassVar[Session]
    environment: ClassVar[dict[str, str]]

    def validate_image(self, image: str) -> None:
        """Accept any image: the step runs in this environment, which has the image's content."""

    def run(self) -> Status:
        """Run the task's command."""
        command, run = self.full_command, self.session.run
        self.session.run_step(command, lambda: _Process(command, self.environment, run))
        return Status.SUCCESS


class _Process:
    """A step's process, recorded in its run while it works."""

    def __init__(self, command: list[str], environment: dict[str, str], run: Run) -> None:
        self._run = run
        self._process, self._output = start_step(command, environment)
        assert self._process.pid is not None
        self._pid = self._process.pid
        try:
            with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended already
                run.process_started(self._pid)
        except BaseException:  # nobody else could stop it
            self.stop()
            raise

    def output(self) -> Iterator[str]:
        """Yield the process's output, line by line, until it ends."""
        with self._output, open(self._output.fileno(), errors="replace", closefd=False) as lines:
            yield from lines

    def wait(self) -> str:
        """Wait for the process's end, and describe a failure; empty if none."""
        self._process.join()
        assert self._process.exitcode is not None
        self._run.process_ended(self._pid)
        return fault_of(self._process.exitcode)

    def stop(self) -> None:
        """End the process and its descendants."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._pid)
            end_all([*process.children(recursive=True), process])
