"""Fork steps from multiprocessing's fork server, which has imported their libraries.

The server imports this module too, so the module imports nothing that a step does not need.
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

from crossfold.runners.local.run_folders import end_all

# The process that writes the run to MLflow is forked from the server too.
FOR_MLFLOW = [
    __name__,
    "crossfold.cli.main",  # multiprocessing imports the main module in every child
    "crossfold.registry.aliases",
    "crossfold.tracking.run_tree",
    "mlflow.store.tracking.sqlalchemy_store",  # MLflow imports a kind of store on first use
    "mlflow.store.model_registry.sqlalchemy_store",
    "sqlalchemy.dialects.sqlite",
]
# What register_model needs if the model is registered already: it runs even if nothing changed.
FOR_REGISTERED = [
    *FOR_MLFLOW,
    "kfp.dsl.executor_main",
    "crossfold.registry.register",
    "crossfold.report.page",
    "crossfold.report.pictures",
]
FOR_ALL_STEPS = [
    *FOR_REGISTERED,
    "crossfold.data.fetch",
    "dvc.repo",
    "crossfold.extraction.extract_features",
    "crossfold.network.timm_networks",  # the shipped network is timm's
    "crossfold.network.openvino_engine",
    "crossfold.training.train_fold",
    "torch._dynamo",  # torch imports it with the first optimizer
    "crossfold.evaluation.test_split",
    "sklearn.metrics",
    "scipy.optimize",
    "scipy.special",
    "crossfold.registry.package",
    "crossfold.report.drawings",
]
_COLLECTION_OFF, _COLLECTION_ON = (f"{__package__}.collection_{word}" for word in ("off", "on"))
# Kubeflow's command for a step sets the first; both are read before a step gets its environment.
_FROM_THE_START = {"_KFP_RUNTIME": "true", "PYTHONUNBUFFERED": "1"}
# The run handles these signals, and ends its steps and the server itself.
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@contextmanager
def fork_server(imported: list[str]) -> Iterator[None]:
    """Run the server during the block; its imports overlap with the block's first work.

    A step that needs other modules than `imported` still works, but imports them itself.
    """
    server = _start(imported)
    try:
        yield
    finally:
        _stop(server)


def _start(imported: list[str]) -> psutil.Process:
    modules = [_COLLECTION_OFF, *imported, _COLLECTION_ON]
    multiprocessing.get_context("forkserver").set_forkserver_preload(modules)
    resource_tracker.ensure_running()  # the fork server needs it, and would start a second child
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
    """End the server, and any step that a signal kept us from recording."""
    with suppress(psutil.NoSuchProcess):
        server.suspend()  # so that it starts no more steps
        steps = server.children(recursive=True)
        server.kill()  # no wait here: multiprocessing waits for it, and would fail after ours
        end_all(steps)


def start_step(
    command: list[str], environment: dict[str, str]
) -> tuple[ForkServerProcess, Connection]:
    """Start a step from Kubeflow's command for it; return its process and its output."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    with theirs:
        process = context.Process(target=_run_step, args=(command, environment, theirs))
        process.start()
    return process, ours


def _run_step(command: list[str], environment: dict[str, str], output: Connection) -> None:
    """Do the work of Kubeflow's command: write the component's code to a file and execute it."""
    _leave_the_server(output)
    os.environ.clear()
    os.environ.update(environment | _FROM_THE_START)
    tempfile.tempdir = None  # it came from the server's environment

    from kfp.dsl.executor_main import executor_main

    _shell, _option, _script, code, *arguments = command
    component = Path(tempfile.mkdtemp()) / "ephemeral_component.py"
    component.write_text(code, encoding="utf-8")
    sys.argv = [executor_main.__name__, "--component_module_path", str(component), *arguments]
    executor_main()


def _leave_the_server(output: Connection) -> None:
    """Share nothing with the server any more, like a freshly started process."""
    os.setsid()  # so that Ctrl-C reaches only the run, which passes it on
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    os.dup2(sys.stdin.fileno(), 0)  # multiprocessing has put the null device there, not in 0
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    os.closerange(3, 1024)  # the server ends once no process holds the run's end of its pipe
    sys.stdin = os.fdopen(0)
    gc.freeze()  # imported objects stay, so garbage collection may skip them
