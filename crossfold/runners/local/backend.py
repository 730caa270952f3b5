"""What a run on this machine leaves to its backend: processes, or containers."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, Protocol

from kfp import local

from crossfold.settings import Settings

from .runs import Run
from .session import Session


class Backend(Protocol):
    """How the steps of a run are executed."""

    name: ClassVar[str]  # of the runner, as `--on` takes it and as MLflow has it

    def __init__(self, root: Path, settings: Settings) -> None:
        """Find what the steps of a project's run need.

        Raises:
            UserError: it is not there.
        """
        ...

    @property
    def cache_name(self) -> str:
        """Name the cache for the steps of all runs that may answer each other's."""
        ...

    def image(self, role: str) -> str:
        """Name the code that a role's steps execute, for the keys of the cache."""
        ...

    def kubeflow_runner(
        self, session: Session, package: Path, pipeline_root: Path
    ) -> AbstractContextManager[local.SubprocessRunner | local.DockerRunner]:
        """Have Kubeflow's runner for a session and its compiled pipeline during a block."""
        ...


def step_environment(run: Run, inherited: Mapping[str, str]) -> dict[str, str]:
    """Add to the variables that the steps of a run inherit those that every step gets.

    On Kubeflow MLFLOW_RUN_ID names the step's own run; here it would put every step into one.
    """
    kept = {name: value for name, value in inherited.items() if name != "MLFLOW_RUN_ID"}
    return {**kept, "CROSSFOLD_RUN_ID": run.id, "PYTHONUNBUFFERED": "1"}
