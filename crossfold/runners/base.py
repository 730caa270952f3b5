"""The interface of a runner, and the runners that there are."""

from __future__ import annotations

from enum import StrEnum
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Protocol

from crossfold.errors import UserError

if TYPE_CHECKING:  # `crossfold --help` names the runners, and imports nothing for them
    from pathlib import Path

    from crossfold.settings import Settings

    from .display import Display
    from .outcome import Outcome


class Runner(Protocol):
    """Executes the steps of the compiled pipeline: on this machine, in Docker, on a cluster."""

    def run(
        self, root: Path, settings: Settings, display: Display, *, caching: bool, record: bool
    ) -> Outcome:
        """Run the pipeline for the data and weights that the pointers of a project name.

        Args:
            root: The project's folder.
            settings: params.yaml.
            display: Shows the steps.
            caching: Whether steps may be answered from the runner's cache.
            record: Whether to write what git and DVC compare.

        Raises:
            UserError: something stands in the way; nothing has been started.
            StepError: a step failed.
            Interrupted: a signal ended the command.
        """
        ...


class RunnerName(StrEnum):
    """The runners that `--on` takes: their classes, imported only if chosen, and their options."""

    LOCAL = "local", "crossfold.runners.local.runner:ProcessRunner"
    DOCKER = "docker", "crossfold.runners.local.runner:ContainerRunner"
    CLUSTER = "cluster", "crossfold.runners.kubeflow.run:KubeflowRunner", "context", "registry"

    place: str
    options: tuple[str, ...]

    def __new__(cls, name: str, place: str, *options: str) -> RunnerName:
        """Take a row of the table."""
        member = str.__new__(cls, name)
        member._value_, member.place, member.options = name, place, options
        return member


def create_runner(name: RunnerName, **options: str | None) -> Runner:
    """Create a runner with the options that were given; it has defaults for the others.

    Raises:
        UserError: an option is another runner's.
    """
    given = {option: value for option, value in options.items() if value}
    for other in RunnerName:
        if other is not name and given.keys() & other.options:
            texts = " and ".join(f"--{option}" for option in other.options)
            raise UserError(f"{texts} are for --on {other}")
    runner: Runner = resolve_name(name.place)(**given)
    return runner
