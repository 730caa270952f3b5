"""The interface of a runner, and the available runners."""

from __future__ import annotations

from enum import StrEnum
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Literal, Protocol

from crossfold.errors import UserError

if TYPE_CHECKING:  # `crossfold --help` lists the runners without these imports
    from pathlib import Path

    from crossfold.settings import Settings

    from .display import Display
    from .outcome import Outcome


class Runner(Protocol):
    """Executes the steps of the compiled pipeline: on this machine, in Docker, on a cluster."""

    def run(
        self, root: Path, settings: Settings, display: Display, *, caching: bool, record: bool
    ) -> Outcome:
        """Run the pipeline on the data and weights that the project's DVC pointers name.

        Args:
            root: The project's folder.
            settings: Settings from params.yaml.
            display: Shows the steps.
            caching: Whether steps may reuse outputs from the runner's cache.
            record: Whether to write the files that git and DVC compare.

        Raises:
            UserError: a precondition fails; nothing has been started.
            StepError: a step failed.
            Interrupted: a signal ended the command.
        """
        ...


class RunnerName(StrEnum):
    """Names for `--on`, each with its runner's class, imported only when chosen, and options."""

    LOCAL = "local", "crossfold.runners.local.runner:ProcessRunner"
    DOCKER = "docker", "crossfold.runners.local.runner:ContainerRunner"
    CLUSTER = "cluster", "crossfold.runners.kubeflow.runner:KubeflowRunner", "context", "registry"

    place: str
    options: tuple[str, ...]

    def __new__(cls, name: str, place: str, *options: str) -> RunnerName:
        """Create a member from its name, the place of its class, and its options."""
        member = str.__new__(cls, name)
        member._value_, member.place, member.options = name, place, options
        return member


# The runners whose runs keep all their files, and their MLflow store, in the project.
OnThisMachine = Literal[RunnerName.LOCAL, RunnerName.DOCKER]


def create_runner(name: RunnerName, **options: str | None) -> Runner:
    """Create a runner with the given options, and defaults for the others.

    Raises:
        UserError: an option belongs to another runner.
    """
    given = {option: value for option, value in options.items() if value}
    for other in RunnerName:
        if other is not name and given.keys() & other.options:
            texts = " and ".join(f"--{option}" for option in other.options)
            raise UserError(f"{texts} are for --on {other}")
    runner: Runner = resolve_name(name.place)(**given)
    return runner
