"""The two runners on this machine: steps as processes, or steps as containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossfold.runners.local.backends.fork_server import (
    FOR_ALL_STEPS,
    FOR_MLFLOW,
    FOR_REGISTERED,
    fork_server,
)

from .reuse import expects_full_reuse

if TYPE_CHECKING:  # the server of steps starts without these imports
    from pathlib import Path

    from crossfold.runners.display import Display
    from crossfold.runners.outcome import Outcome
    from crossfold.settings import Settings


class ProcessRunner:
    """Runs steps as processes, forked from a server that has imported their libraries."""

    def run(
        self, root: Path, settings: Settings, display: Display, *, caching: bool, record: bool
    ) -> Outcome:
        """Run the pipeline; see `Runner`."""
        full_reuse = caching and expects_full_reuse(root, settings)
        with fork_server(FOR_REGISTERED if full_reuse else FOR_ALL_STEPS):
            # Slow imports, which overlap with the server's own.
            from crossfold.runners.local.backends.processes import Processes

            from .run_lifecycle import run_here

            return run_here(root, settings, display, Processes, caching=caching, record=record)


class ContainerRunner:
    """Runs steps as Docker containers; only the process that writes to MLflow is forked."""

    def run(
        self, root: Path, settings: Settings, display: Display, *, caching: bool, record: bool
    ) -> Outcome:
        """Run the pipeline; see `Runner`."""
        with fork_server(FOR_MLFLOW):
            from crossfold.runners.local.backends.containers import Containers

            from .run_lifecycle import run_here

            return run_here(root, settings, display, Containers, caching=caching, record=record)
