"""Run the pipeline with the code of a checked-out commit, and show its steps.

Old code is called through its own command line, and its output is read line by line.
"""

import contextlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from crossfold.errors import UserError
from crossfold.runners.base import OnThisMachine
from crossfold.runners.display import Display
from crossfold.runners.failures import StepError, signals_interrupt
from crossfold.runners.local.run_folders import Run
from crossfold.step.environment import for_other_programs

_LINE = re.compile(r"(?P<sign>[…✓↺✗]) (?P<title>\S+(?: \S+)*)(?: {2,}(?P<detail>.*))?")


def run_commit(
    project: Path,
    command: Run,
    remote: Mapping[str, str],
    display: Display,
    on: OnThisMachine,
    rest: str,
) -> None:
    """Run the pipeline with the worktree's code, and show its steps.

    `rest` says where its files are after an interruption or a failure.

    Raises:
        UserError: the run was refused.
        StepError: the run failed.
        Interrupted: a signal ended it; no process is left.
    """
    python = {"PYTHONPATH": str(project), "PYTHONIOENCODING": "utf-8"}
    log = command.folder / "run.log"
    with (
        log.open("w", encoding="utf-8") as output,
        (command.folder / "errors.log").open("w+", encoding="utf-8") as errors,
        subprocess.Popen(
            [sys.executable, "-c", _command(project), "run", "--on", on],
            cwd=project,
            env={**for_other_programs(), **remote, **python},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # so that Ctrl-C reaches only us, and we pass it on
        ) as process,
    ):
        assert process.stdout is not None
        with display, _terminated_on_error(process, rest):
            command.process_started(process.pid)
            for line in process.stdout:
                output.write(line)
                _show(line, display)
            status = process.wait()
        command.process_ended(process.pid)
        errors.seek(0)
        complaint = errors.read().strip().removeprefix("error: ")
    if "Traceback (most recent call last)" in complaint:  # old code may crash with new libraries
        complaint = complaint.splitlines()[-1]
    if status == 2:
        raise UserError(f"the run of that commit's code was refused: {complaint}")
    if status != 0:
        raise StepError(f"the run failed: {complaint}\n{rest}")


def _command(project: Path) -> str:
    """Build a Python program from the entry point of the commit's `crossfold` command."""
    about = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, function = about["project"]["scripts"]["crossfold"].partition(":")
    return f"from {module} import {function}; {function}()"


@contextlib.contextmanager
def _terminated_on_error(process: "subprocess.Popen[str]", rest: str) -> Iterator[None]:
    """End the run, and with it its steps, if a signal or an error ends the block."""
    try:
        with signals_interrupt(f"interrupted; {rest}", process.terminate):
            yield
    except BaseException:
        process.terminate()
        process.wait()
        raise


def _show(line: str, display: Display) -> None:
    """Show a step's line as if the step were ours; skip the run's summary, which is in its log."""
    parts = _LINE.fullmatch(line.strip())
    if not parts:
        return
    title, detail = parts["title"], parts["detail"] or ""
    match parts["sign"]:
        case "…":
            display.started(title)
        case "✓":
            display.finished(title, float(detail.removesuffix(" s")))
        case "↺":
            display.reused(title, detail)
        case "✗":
            display.failed(title)
