"""Call functions that need MLflow in another process, so that the command need not import it.

The process is forked from the server of steps (see `fork_server`), which has imported MLflow while
the command did something else. Without the server, the process imports MLflow itself.
"""

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

from crossfold.errors import UserError
from crossfold.runners.failures import StepError

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")
_DIED = "the process that writes to MLflow died without an answer"


class MlflowProcess:
    """Calls functions of modules in the process, one after the other.

    Arguments and answers are pickled.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._is_waiting = False
        self.num_due = 0  # answers that have not come

    def __call__(
        self,
        function: Callable[_Arguments, _Answer],
        /,
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Answer:
        """Call a function, and return its answer.

        Raises:
            UserError: the function raised it, or the tracking server refuses the login. If one
                called by `later` raised it, this one was not called.
            OSError: as UserError.
            StepError: the tracking server is lost, MLflow failed, or the process died.
        """
        while self.num_due:
            self._answer()
        self.later(function, *args, **kwargs)
        result: _Answer = self._answer()
        return result

    def later(
        self,
        function: Callable[_Arguments, object],
        /,
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> None:
        """Call a function without waiting for it; the next call waits, and raises its error.

        Raises:
            StepError: the process died, or has not answered an earlier call.
        """
        with self._sending:
            self._require_answers()
            try:
                self._connection.send((function, args, kwargs))
            except ConnectionError:
                raise StepError(_DIED) from None
            self.num_due += 1

    def settled(self, seconds: float) -> bool:
        """Tell whether the answers to `later` come in time; what they say is dropped."""
        deadline = time.monotonic() + seconds
        while self.num_due and not self._is_waiting:
            if not self._connection.poll(max(0.0, deadline - time.monotonic())):
                return False
            with suppress(UserError, OSError, StepError):
                self._answer()
        return not self._is_waiting

    def _require_answers(self) -> None:
        if self._is_waiting:  # a signal ended the wait, and the answer may still come
            raise StepError("the process that writes to MLflow has not answered the last call")

    def _answer(self) -> Any:
        self._require_answers()
        self._is_waiting = True
        try:
            answer, error = self._connection.recv()
        except (EOFError, ConnectionError):
            self._is_waiting, self.num_due = False, 0
            raise StepError(_DIED) from None
        self._is_waiting = False
        self.num_due -= 1
        if error is not None:
            raise error
        return answer


@contextmanager
def mlflow_process() -> Iterator[MlflowProcess]:
    """Run the process during the block, with the environment that this process has now."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, dict(os.environ)))
    process.start()
    theirs.close()
    calls = MlflowProcess(ours)
    try:
        yield calls
    finally:
        ours.close()
        if calls.num_due:
            process.kill()  # MLflow's client tries for minutes
        process.join()


def _serve(connection: Connection, environment: dict[str, str]) -> None:
    """Answer calls until the other end is closed. The server has blocked the run's signals."""
    os.environ.clear()
    os.environ.update(environment)
    while True:
        try:
            function, args, kwargs = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            reply = (function(*args, **kwargs), None)
        except Exception as error:
            connection.send((None, _portable(error)))
        else:
            connection.send(reply)


def _portable(error: Exception) -> Exception:
    """Turn an error into one that can be pickled and says the same."""
    if isinstance(error, UserError | OSError):
        return error

    from mlflow.exceptions import MlflowException

    from crossfold.tracking import store

    if isinstance(error, MlflowException):
        if refused := store.refused_login(error):
            return UserError(refused)
        return StepError(store.lost_server(error) or f"MLflow: {error}")
    return RuntimeError("".join(traceback.format_exception(error)))
