"""The interface of a backend, which runs steps on this machine as processes or containers."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, Protocol

from kfp import local

from crossfold.runners.base import RunnerName
from crossfold.runners.local.run_folders import Run
from crossfold.runners.local.session import Session
from crossfold.settings import Settings


class Backend(Protocol):
    """Executes the steps of a run."""

    name: ClassVar[RunnerName]

    def __init__(self, root: Path, settings: Settings) -> None:
        """Prepare to execute the steps of a project's run.

        Raises:
            UserError: a precondition fails.
        """
        ...

    @property
    def cache_name(self) -> str:
        """Name the cache that all runs with interchangeable outputs share."""
        ...

    def image(self, role: str) -> str:
        """Name the code that a role's steps execute, for the keys of the cache."""
        ...

    def kubeflow_runner(
        self, session: Session, package: Path, pipeline_root: Path
    ) -> AbstractContextManager[local.SubprocessRunner | local.DockerRunner]:
        """Provide Kubeflow's runner for a session and its compiled pipeline during the block."""
        ...


def step_environment(run: Run, inherited: Mapping[str, str]) -> dict[str, str]:
    """Build a step's environment: the inherited variables plus those that every step gets.

    Drop MLFLOW_RUN_ID: on Kubeflow it names the step's own run, here it would put all steps into
    one.
    """
    kept = {name: value for name, value in inherited.items() if name != "MLFLOW_RUN_ID"}
    return {**kept, "CROSSFOLD_RUN_ID": run.id, "PYTHONUNBUFFERED": "1"}
