"""Call functions that need MLflow in another process, so that the command need not import it.

The process is forked from the server of steps (see `fork_server`), which has imported MLflow while
the command did something else. Without the server, the process imports MLflow itself.
"""

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
            UserError: this function, or one called by `later`, raised it, or the tracking server
                refuses the login.
            OSError: as UserError.
            StepError: the tracking server is lost, MLflow failed, or the process died.
        """
        self.later(function, *args, **kwargs)
        self._is_waiting = True
        replies = [self._receive() for _ in range(self.num_due)]
        self._is_waiting = False
        for _, error in replies:
            if error is not None:
                raise error
        result: _Answer = replies[-1][0]
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
            if self._is_waiting:  # a signal ended the wait, and the answer may still come
                raise StepError("the process that writes to MLflow has not answered the last call")
            try:
                self._connection.send((function, args, kwargs))
            except ConnectionError:
                raise StepError(_DIED) from None
            self.num_due += 1

    def _receive(self) -> tuple[Any, Exception | None]:
        try:
            reply: tuple[Any, Exception | None] = self._connection.recv()
        except (EOFError, ConnectionError):
            self._is_waiting, self.num_due = False, 0
            raise StepError(_DIED) from None
        self.num_due -= 1
        return reply


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
