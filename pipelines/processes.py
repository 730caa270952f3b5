"""Steps as processes of this environment: Kubeflow's SubprocessRunner."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import ClassVar

import psutil
from kfp import local
from kfp.local import subprocess_task_handler
from kfp.local.status import Status

from pipelines.runs import Run, end_all
from pipelines.session import Session, fault_of


def subprocess_runner(session: Session, environment: dict[str, str]) -> local.SubprocessRunner:
    """Return Kubeflow's runner for a session whose steps are processes with this environment."""
    _StepHandler.session, _StepHandler.environment = session, environment
    subprocess_task_handler.SubprocessTaskHandler = _StepHandler
    return local.SubprocessRunner(use_venv=False)


class _StepHandler(subprocess_task_handler.SubprocessTaskHandler):  # type: ignore[misc]
    """Kubeflow's handler of one task, with our process instead of its own."""

    session: ClassVar[Session]
    environment: ClassVar[dict[str, str]]

    def validate_image(self, image: str) -> None:
        """Accept any image: the step runs in this environment, which has what the image has."""

    def run(self) -> Status:
        """Run the task's command."""
        command = subprocess_task_handler.replace_python_executable(
            self.full_command, sys.executable
        )
        run = self.session.run
        self.session.run_step(command, lambda: _Process(command, self.environment, run))
        return Status.SUCCESS


class _Process:
    """A step's process, recorded in its run while it works."""

    def __init__(self, command: list[str], environment: dict[str, str], run: Run) -> None:
        self._run = run
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C is ours to pass on
        )
        run.process_started(self._process.pid)

    def output(self) -> Iterator[str]:
        """Yield what it says, line by line, until it ends."""
        with self._process:  # closes the pipe, and waits
            assert self._process.stdout is not None
            yield from self._process.stdout

    def wait(self) -> str:
        """Wait for its end and return what its status says of a failure."""
        status = self._process.wait()
        self._run.process_ended(self._process.pid)
        return fault_of(status)

    def stop(self) -> None:
        """End it and all that it started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            end_all([*process.children(recursive=True), process])
