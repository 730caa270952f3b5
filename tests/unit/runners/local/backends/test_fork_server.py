import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from crossfold.runners.local.backends.fork_server import FOR_ALL_STEPS, fork_server
from crossfold.runners.local.backends.processes import _Process
from crossfold.runners.local.run_folders import Run, new_run


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    """The server, with a standard input that has something to read."""
    ours, theirs = os.pipe()
    before = os.dup(0)
    os.dup2(ours, 0)
    os.write(theirs, b"typed")
    with fork_server(FOR_ALL_STEPS):
        os.dup2(before, 0)
        yield
    for descriptor in (ours, theirs, before):
        os.close(descriptor)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return new_run(tmp_path, "abc")


def start(run: Run, *body: str, **environment: str) -> _Process:
    """Start a step with this body by Kubeflow's command."""
    lines = ("import os, signal, sys, tempfile", "def body() -> None:", *(f"    {x}" for x in body))
    outputs = {"outputs": {"outputFile": str(run.folder / "executor_output.json")}}
    arguments = ["--executor_input", json.dumps(outputs), "--function_to_execute", "body"]
    command = ["sh", "-ec", "", "\n".join(lines), *arguments]
    return _Process(command, {"TMPDIR": str(run.folder), **environment}, run)


def said(process: _Process) -> list[str]:
    """Return the lines that the step itself has printed, as Kubeflow's begin in another way."""
    return [line[2:-1] for line in process.output() if line.startswith("> ")]


@pytest.mark.slow
def test_a_step_has_its_environment_alone(run: Run) -> None:
    assert "PATH" in os.environ
    process = start(run, "print('>', sorted(os.environ))", FOLD="3")
    expected = ["FOLD", "PYTHONUNBUFFERED", "TMPDIR", "_KFP_RUNTIME"]
    assert said(process) == [str(expected)]
    assert process.wait() == ""


def test_a_step_has_a_session_of_its_own_and_no_input(run: Run) -> None:
    process = start(
        run,
        "print('>', os.getsid(0) == os.getpid(), os.read(0, 1), repr(sys.stdin.read()))",
        "print('>', tempfile.gettempdir())",
        "print('>', signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getsignal(2).__name__)",
        "print('>', sorted(int(fd) for fd in os.listdir('/dev/fd')))",
    )
    assert said(process) == [
        "True b'' ''",
        str(run.folder),
        "set() default_int_handler",
        "[0, 1, 2, 3]",  # the last is the listing's
    ]
    assert process.wait() == ""


def test_what_a_step_says_comes_line_by_line_errors_too(run: Run) -> None:
    process = start(
        run,
        "print('> one')",
        "print('> two', file=sys.stderr)",
        "os.system('echo \"> three\"')",
        "signal.pause()",
    )
    lines = (line for line in process.output() if line.startswith("> "))
    assert [next(lines) for _ in range(3)] == ["> one\n", "> two\n", "> three\n"]
    process.stop()
    assert list(lines) == []
    assert "SIGTERM" in process.wait()


@pytest.mark.parametrize(
    ("end", "fault"),
    [
        ("pass", "^$"),
        ("sys.exit(3)", "status 3"),
        ("raise ValueError('no')", "status 1"),
        ("sys.exit(143)", "SIGTERM"),
        ("os._exit(255)", "status 255"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL; .*memory"),
        ("os.abort()", r"crashed \(SIGABRT\).*--no-cache"),
    ],
)
def test_how_a_step_ended_is_told(run: Run, end: str, fault: str) -> None:
    process = start(run, end)
    assert len(run.processes) == 1
    output = "".join(process.output())
    assert re.search(fault, process.wait())
    assert run.processes == {}
    assert ("ValueError: no" in output) == ("ValueError" in end)


def test_what_the_server_should_have_imported_is_there(run: Run) -> None:
    process = start(run, f"print('>', {set(FOR_ALL_STEPS)} - sys.modules.keys())")
    assert said(process) == ["set()"]
    process.wait()


def test_torch_and_numpy_work_with_threads_in_a_step_as_they_do_here(run: Run) -> None:
    work = (
        "import hashlib, numpy, torch",
        "torch.set_num_threads(2)",
        "torch.manual_seed(0)",
        "layer = torch.nn.Conv2d(3, 64, 3)",
        "layer(torch.rand(32, 3, 64, 64)).square().mean().backward()",
        "array = numpy.random.default_rng(0).random((500, 500))",
        "content = layer.weight.grad.numpy().tobytes() + (array @ array).tobytes()",
        "print('>', hashlib.sha256(content).hexdigest())",
    )
    here = subprocess.run(
        [sys.executable, "-c", "\n".join(work)], capture_output=True, text=True, check=True
    )
    for _ in range(2):
        process = start(run, *work)
        assert said(process) == [here.stdout[2:-1]]
        assert process.wait() == ""


def test_a_terminals_signals_do_not_end_the_server(run: Run) -> None:
    process = start(run, "print('>', os.getppid())")
    (server,) = said(process)
    process.wait()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(int(server), signum)
    process = start(run, "print('>', os.getppid())")
    assert said(process) == [server]
    process.wait()


PROGRAM = """
import psutil
from crossfold.runners.local.backends.fork_server import FOR_ALL_STEPS, fork_server
with fork_server(FOR_ALL_STEPS):
    print(*(child.pid for child in psutil.Process().children()), flush=True)
    {rest}
"""


def test_the_server_ends_at_once_even_amid_its_imports() -> None:
    command = [sys.executable, "-c", PROGRAM.format(rest="pass")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(done.stdout.split()) == 2  # the server and multiprocessing's tracker
    _, alive = psutil.wait_procs(_helpers(done.stdout), timeout=60)
    assert not alive


@pytest.mark.slow
def test_the_server_ends_when_the_run_is_killed() -> None:
    command = [sys.executable, "-c", PROGRAM.format(rest="input()")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        helpers = _helpers(process.stdout.readline())
        process.kill()
    _, alive = psutil.wait_procs(helpers, timeout=60)
    assert not alive


def _helpers(line: str) -> list[psutil.Process]:
    return [psutil.Process(int(pid)) for pid in line.split() if psutil.pid_exists(int(pid))]
