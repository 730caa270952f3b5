"""How a run can end before its end."""


class Interrupted(BaseException):
    """A signal asked the run to stop; not an Exception, so that Kubeflow does not swallow it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class StepError(Exception):
    """A step failed for good; the message says which, why, and where its log is."""
