"""Steps forked from a process that has imported what they need: multiprocessing's fork server.

The server imports this module too, so nothing is imported here that a step does not need.
"""

import gc
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil

from .runs import end_all

_IMPORTED = [
    __name__,
    "crossfold.cli.main",  # multiprocessing imports the main module in every child
    "kfp.dsl.executor_main",
    "crossfold.data.fetch",
    "dvc.repo",
    "crossfold.network.features",
    "crossfold.network.classifier",
    "crossfold.training.steps",
    "torch._dynamo",  # torch imports it with the first optimizer
    "crossfold.evaluation.test_split",
    "sklearn.metrics",
    "scipy.optimize",
    "scipy.special",
    "crossfold.registry.register",
    "crossfold.report.page",
    "crossfold.report.pictures",
    "crossfold.registry.package",
    "mlflow.store.tracking.sqlalchemy_store",  # MLflow imports a store's kind with its first use
    "mlflow.store.model_registry.sqlalchemy_store",
]
# Kubeflow's command for a step says the first; both are read before a step has its environment.
_FROM_THE_START = {"_KFP_RUNTIME": "true", "PYTHONUNBUFFERED": "1"}
# They are meant for the run, which ends its steps and the server itself.
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@contextmanager
def fork_server() -> Iterator[None]:
    """Have the server during the block: its imports go on beside the block's first work."""
    server = _start()
    try:
        yield
    finally:
        _stop(server)


def _start() -> psutil.Process:
    multiprocessing.get_context("forkserver").set_forkserver_preload(_IMPORTED)
    resource_tracker.ensure_running()  # the fork server needs it, and would start it
    others = psutil.Process().children()
    before = dict(os.environ)
    os.environ.update(_FROM_THE_START)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.environ.clear()
        os.environ.update(before)
    (server,) = (child for child in psutil.Process().children() if child not in others)
    return server


def _stop(server: psutil.Process) -> None:
    """End the server, and a step that a signal has kept us from taking note of."""
    with suppress(psutil.NoSuchProcess):
        server.suspend()  # it starts no more
        steps = server.children(recursive=True)
        server.kill()  # multiprocessing waits for its end: it would fail if somebody else had
        end_all(steps)


def start_step(
    command: list[str], environment: dict[str, str]
) -> tuple[ForkServerProcess, Connection]:
    """Start a step, given by Kubeflow's command for it; return its process and its output."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    with theirs:
        process = context.Process(target=_run_step, args=(command, environment, theirs))
        process.start()
    return process, ours


def _run_step(command: list[str], environment: dict[str, str], output: Connection) -> None:
    """Do as Kubeflow's command does: write the component's code to a file and have it executed."""
    _leave_the_server(output)
    os.environ.clear()
    os.environ.update(environment | _FROM_THE_START)
    tempfile.tempdir = None  # it was another environment's

    from kfp.dsl.executor_main import executor_main

    _shell, _option, _script, code, *arguments = command
    component = Path(tempfile.mkdtemp()) / "ephemeral_component.py"
    component.write_text(code, encoding="utf-8")
    sys.argv = [executor_main.__name__, "--component_module_path", str(component), *arguments]
    executor_main()


def _leave_the_server(output: Connection) -> None:
    """Become what a process that was started anew is: nothing of the server's is shared."""
    os.setsid()  # a terminal's Ctrl-C is the run's to pass on
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    os.dup2(sys.stdin.fileno(), 0)  # multiprocessing has put the null device there, and left 0
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    os.closerange(3, 1024)  # the server ends as soon as nobody has the run's end of its pipe
    sys.stdin = os.fdopen(0)
    gc.freeze()  # what was imported stays, and need not be looked at again and again
