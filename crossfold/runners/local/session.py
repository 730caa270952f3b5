"""Run the compiled pipeline on this machine with Kubeflow's local runner.

Kubeflow's own runner and cache do the work, but they do not show which step runs, stop it, say why
one failed, or report a cache hit. The subclasses of its task handlers in `processes` and
`containers`, and `_StepCache` here, do.
"""

import contextlib
import json
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

from kfp import components, dsl, local
from kfp.local import cache

from crossfold.runners.display import Display
from crossfold.runners.failures import StepError
from crossfold.step import runtime
from crossfold.step.full_disk import explain_full_disk
from crossfold.tracking import names

from .run_folders import Run

_CRASHES = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}


class Work(Protocol):
    """A running step: a process or a container."""

    def output(self) -> Iterator[str]:
        """Yield the step's output, line by line, until it ends."""
        ...

    def wait(self) -> str:
        """Wait for the step's end, and describe a failure seen from outside; empty if none."""
        ...

    def stop(self) -> None:
        """End the step."""
        ...


class Session:
    """The state that the steps of one pipeline run share.

    A failed step is not repeated here, whatever the pipeline says for the cluster: running again
    costs nothing, since no finished step is repeated.
    """

    def __init__(
        self, run: Run, display: Display, record_reused: Callable[[list[runtime.Record]], None]
    ) -> None:
        self.run = run
        self.display = display
        self.num_reused = 0
        self._record_reused = record_reused
        self._reused: list[runtime.Record] = []  # and not recorded yet
        self._reusing = threading.Lock()
        self.failure: StepError | None = None
        self._at_work: list[Work] = []
        self._stopping = False

    def run_step(self, command: list[str], start: Callable[[], Work]) -> None:
        """Run a step to its end from Kubeflow's command for it, and log its output.

        `start` raises a StepError if it cannot start the step.

        Raises:
            StepError: the step failed, or must not start because the run is ending.
        """
        if self.failure or self._stopping:
            raise StepError("not started: the run is ending")
        _, title, folder = describe(command)
        self.display.started(title)
        started = time.monotonic()
        log = self.run.folder / f"{title.replace(' ', '-')}.log"
        try:
            if reused := self.take_reused():
                self._record_reused(reused)  # while this step works
            fault = self._work(start, log, title)
            if fault:
                fault = _recorded_error(folder) or fault
            elif not self._stopping:
                self.run.step_done(title, folder)
        except StepError as error:
            fault = str(error)
        except OSError as error:
            fault = explain_full_disk(error, log) or (
                f"{log}, or the run's record beside it, cannot be written: {error.strerror}"
            )
        if self._stopping:
            raise StepError("interrupted")
        if fault:
            self.display.failed(title)
            self.failure = StepError(f"{title}: {fault}\nThe step's whole log: {log}")
            raise self.failure
        self.display.finished(title, time.monotonic() - started)

    def _work(self, start: Callable[[], Work], log: Path, title: str) -> str:
        work = start()
        self._at_work.append(work)
        try:
            if self._stopping:  # a signal came after the last check
                work.stop()
            with log.open("a") as file:
                for line in work.output():
                    file.write(line)
                    file.flush()
                    self.display.output(title, line)
            return work.wait()
        except BaseException:  # a full disk, or our output's reader is gone
            work.stop()
            raise
        finally:
            self._at_work.remove(work)

    def step_reused(self, folder: Path) -> None:
        """Record a step that the cache answered with the outputs in `folder`."""
        record = runtime.Record.read(folder)
        title = names.title(record.step, record.iteration)
        self.run.step_done(title, folder)
        if record.run_id == self.run.id:
            self.display.reused(title, "done before the interruption")
        else:
            with self._reusing:
                self.num_reused += 1
                self._reused.append(record)
            self.display.reused(title, f"unchanged since run {record.run_id}")

    def take_reused(self) -> list[runtime.Record]:
        """Return the reused steps since the last call, for the caller to record."""
        with self._reusing:
            reused, self._reused = self._reused, []
        return reused

    def stop(self) -> None:
        """End every running step, and start no more."""
        self._stopping = True
        with contextlib.ExitStack() as stack:  # stop each, even if another cannot be stopped
            for work in list(self._at_work):
                stack.callback(work.stop)


def describe(command: list[str]) -> tuple[str, str, Path]:
    """Parse a step's name, title and output folder from Kubeflow's command for it."""
    inputs = json.loads(command[command.index("--executor_input") + 1])
    name = command[command.index("--function_to_execute") + 1]
    iteration = names.iteration(inputs["inputs"].get("parameterValues", {}))
    return name, names.title(name, iteration), Path(inputs["outputs"]["outputFile"]).parent


def fault_of(status: int) -> str:
    """Describe an exit status in words; empty if it is 0."""
    # A status above 128 names a signal too: from a container's shell, or a step that caught it.
    signum = -status if status < 0 else status - 128
    if signum not in {*signal.Signals}:
        return f"ended with status {status}" if status else ""
    name = signal.Signals(signum).name
    if signum in _CRASHES:
        return (
            f"crashed ({name}). If it crashes again, a file of an earlier step may be damaged: "
            "`crossfold run --no-cache` writes all of them anew"
        )
    memory = "; the machine may be out of memory" if signum == signal.SIGKILL else ""
    return f"was ended by {name}{memory}"


def _recorded_error(folder: Path) -> str:
    """Read the error that a step recorded; empty without a record."""
    return runtime.Record.read(folder).error if (folder / runtime.RECORD).exists() else ""


_KubeflowCache = cache.LocalCache


class _StepCache(cache.LocalCache):  # type: ignore[misc]  # kfp has no types
    """Kubeflow's cache, which also reports its hits and still works after a project was moved.

    Entries and keys name artifacts by their paths relative to the folder of all runs.
    """

    session: ClassVar[Session]
    home: ClassVar[Path]

    def get(self, key: str) -> dict[str, Any] | None:
        """Look up the outputs under a key, and report a hit; None if their files are gone."""
        outputs: dict[str, Any] | None = super().get(key)
        if outputs is not None:
            uri = next(value.uri for value in outputs.values() if hasattr(value, "uri"))
            self.session.step_reused(Path(uri).parent)
        return outputs

    @staticmethod
    def _serialize_value_for_key(value: Any) -> Any:
        if isinstance(value, float) and value.is_integer():
            return int(value)  # kfp makes a loop's integers floats, and those of other steps not
        serialized = _KubeflowCache._serialize_value_for_key(value)
        return _relative(serialized) if isinstance(value, dsl.Artifact) else serialized

    @staticmethod
    def _serialize_artifact(artifact: dsl.Artifact) -> dict[str, Any]:
        return _relative(_KubeflowCache._serialize_artifact(artifact))

    @staticmethod
    def _deserialize_artifact(data: dict[str, Any]) -> dsl.Artifact:
        uri = str(_StepCache.home / data["uri"])
        return _KubeflowCache._deserialize_artifact({**data, "uri": uri})


def _relative(artifact: dict[str, Any]) -> dict[str, Any]:
    return {**artifact, "uri": os.path.relpath(artifact["uri"], _StepCache.home)}


def run_pipeline(
    package: Path,
    arguments: dict[str, Any],
    session: Session,
    runner: local.SubprocessRunner | local.DockerRunner,
    *,
    pipeline_root: Path,
    cache_root: Path | None,
) -> None:
    """Run a compiled pipeline to its end; without a `cache_root`, reuse no earlier outputs.

    Raises:
        StepError: a step failed.
    """
    run = session.run
    _StepCache.session, _StepCache.home = session, run.folder.parent
    cache.LocalCache = _StepCache
    local.init(
        runner=runner,
        pipeline_root=str(pipeline_root),
        workspace_root=str(run.folder / "workspace"),
        enable_caching=cache_root is not None,
        cache_root=str(cache_root),
    )
    with (run.folder / "kubeflow.log").open("a") as log, _logging_restored():
        try:
            with contextlib.redirect_stdout(log), warnings.catch_warnings():
                # Kubeflow warns about limits, which we set on containers, and about display names.
                warnings.filterwarnings("ignore", message=".*have no effect in the current local")
                components.load_component_from_file(str(package))(**arguments)
        except Exception as error:
            raise (session.failure or error) from None


@contextlib.contextmanager
def _logging_restored() -> Iterator[None]:
    """Undo the changes of Kubeflow's runner to the root logger.

    The runner adds a handler for each task. With two tasks at a time, the last one to end may leave
    a handler behind, which then writes to a closed log.
    """
    before = logging.root.handlers[:], logging.root.level
    try:
        yield
    finally:
        logging.root.handlers[:], logging.root.level = before
