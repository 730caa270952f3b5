"""Exceptions that end a run early, and signals that raise them."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """A signal asked the run to stop. Not an Exception, so that Kubeflow does not swallow it.

    The text tells the user how the run was left.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class StepError(Exception):
    """A step failed for good; the message names the step, the reason and the log."""


@contextmanager
def signals_interrupt(message: str, before: Callable[[], None] = lambda: None) -> Iterator[None]:
    """End the block on Ctrl-C, SIGTERM or a closed terminal, after a call of `before`.

    Raises:
        Interrupted: one of these signals arrived; its text is `message`.
    """

    def stop(signum: int, _: FrameType | None) -> None:
        if signum == signal.SIGHUP:  # the terminal is gone, and writing to it would fail
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
        before()
        raise Interrupted(signum, message)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {signum: signal.signal(signum, stop) for signum in signals}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
