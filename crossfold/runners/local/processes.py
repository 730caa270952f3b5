"""Steps as processes of this environment: Kubeflow's SubprocessRunner."""

import contextlib
from collections.abc import Iterator
from typing import ClassVar

import psutil
from kfp import local
from kfp.local import subprocess_task_handler
from kfp.local.status import Status

from .fork_server import start_step
from .runs import Run, end_all
from .session import Session, fault_of


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
