"""Steps as processes of this environment: Kubeflow's SubprocessRunner."""

import contextlib
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import psutil
from kfp import local
from kfp.local import subprocess_task_handler
from kfp.local.status import Status

from crossfold.infra.images import code_name
from crossfold.settings import Settings

from .backend import step_environment
from .fork_server import start_step
from .runs import Run, end_all
from .session import Session, fault_of


class Processes:
    """The backend of a run whose steps are processes of this environment."""

    name: ClassVar[str] = "local"

    def __init__(self, root: Path, settings: Settings) -> None:
        """Take this environment, which has all that the steps need."""

    @property
    def cache_name(self) -> str:
        """Name the cache by the build of torch that is installed here, which no image states."""
        return f"{self.name}-torch-{version('torch')}"

    def image(self, role: str) -> str:
        """Name the code, whatever the images are built on."""
        return code_name(role)

    @contextlib.contextmanager
    def kubeflow_runner(
        self, session: Session, package: Path, pipeline_root: Path
    ) -> Iterator[local.SubprocessRunner]:
        """Have Kubeflow's runner with our handler of a task."""
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
    """Kubeflow's handler of one task, with our process instead of its own."""

    session: ClassVar[Session]
    environment: ClassVar[dict[str, str]]

    def validate_image(self, image: str) -> None:
        """Accept any image: the step runs in this environment, which has what the image has."""

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
            with contextlib.suppress(psutil.NoSuchProcess):  # the server notes its end first
                run.process_started(self._pid)
        except BaseException:  # nobody would know of it
            self.stop()
            raise

    def output(self) -> Iterator[str]:
        """Yield what it says, line by line, until it ends."""
        with self._output, open(self._output.fileno(), errors="replace", closefd=False) as lines:
            yield from lines

    def wait(self) -> str:
        """Wait for its end and return what its status says of a failure."""
        self._process.join()
        assert self._process.exitcode is not None
        self._run.process_ended(self._pid)
        return fault_of(self._process.exitcode)

    def stop(self) -> None:
        """End it and all that it started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._pid)
            end_all([*process.children(recursive=True), process])
