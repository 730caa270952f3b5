"""Call functions that need MLflow in another process, so that the command need not import it.

The process is forked from the server of steps (see `fork_server`), which has imported MLflow while
the command did something else. Without the server, the process imports MLflow itself.
"""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import ParamSpec, Protocol, TypeVar

from crossfold.errors import UserError
from crossfold.runners.failures import StepError

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


class Call(Protocol):
    """Calls a function of a module in the process, and returns its answer."""

    def __call__(
        self,
        function: Callable[_Arguments, _Answer],
        /,
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Answer:
        """Call a function; arguments and answer are pickled.

        Raises:
            UserError: the function raised it, or the tracking server refuses the login.
            OSError: the function raised it.
            StepError: the tracking server is lost, MLflow failed, or the process died.
        """
        ...


@contextmanager
def mlflow_process() -> Iterator[Call]:
    """Run the process during the block, with the environment that this process has now."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, dict(os.environ)))
    process.start()
    theirs.close()
    is_waiting = False

    def call(
        function: Callable[_Arguments, _Answer],
        /,
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Answer:
        nonlocal is_waiting
        if is_waiting:  # a signal ended the wait, and the answer may still come
            raise StepError("the process that writes to MLflow has not answered the last call")
        is_waiting = True
        try:
            ours.send((function, args, kwargs))
            answer, error = ours.recv()
        except (EOFError, ConnectionError):
            is_waiting = False
            raise StepError("the process that writes to MLflow died without an answer") from None
        is_waiting = False
        if error is not None:
            raise error
        result: _Answer = answer
        return result

    try:
        yield call
    finally:
        ours.close()
        if is_waiting:
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
    from mlflow.exceptions import MlflowException

    from crossfold.tracking import store

    if isinstance(error, UserError | OSError):
        return error
    if isinstance(error, MlflowException):
        if refused := store.refused_login(error):
            return UserError(refused)
        return StepError(store.lost_server(error) or f"MLflow: {error}")
    return RuntimeError("".join(traceback.format_exception(error)))
