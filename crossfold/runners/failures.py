"""How a run can end before its end."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """A signal asked the run to stop; not an Exception, so that Kubeflow does not swallow it.

    Its text says what has become of the run.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class StepError(Exception):
    """A step failed for good; the message says which, why, and where its log is."""


@contextmanager
def signals_interrupt(message: str, before: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal end the block, after a call of `before`.

    Raises:
        Interrupted: one of them came; its text is the message.
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
