"""Write a run on this machine to MLflow, in the process of `mlflow_process`.

The command imports this module too, so functions import MLflow.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from crossfold.step import runtime

_logger = logging.getLogger(__name__)


def check_store() -> None:
    """Connect to the tracking store.

    Raises:
        UserError: it cannot be reached, or does not fit.
    """
    from crossfold.tracking import store

    store.connect()


def begin(run_id: str, name: str, runner: str) -> None:
    """Open the MLflow run of a pipeline run."""
    from crossfold.tracking import run_tree

    run_tree.parent_run(run_id, name=name, tags={"crossfold.runner": runner})


def record_reused(run_id: str, reused: Sequence[runtime.Record]) -> None:
    """Record steps that were reused, in the MLflow run of a pipeline run."""
    from crossfold.tracking import run_tree

    steps = [run_tree.CachedStep(one.step, one.iteration, one.mlflow_run_id) for one in reused]
    run_tree.log_cached_steps(run_id, steps)


def end(
    run_id: str, reused: Sequence[runtime.Record], status: Literal["FINISHED", "FAILED", "KILLED"]
) -> None:
    """Record the last steps that were reused, and end the MLflow run of a pipeline run."""
    from crossfold.tracking import run_tree

    record_reused(run_id, reused)
    run_tree.end_parent(run_id, status)


def end_at_best_effort(
    run_id: str, reused: Sequence[runtime.Record], status: Literal["FAILED", "KILLED"]
) -> None:
    """Record the end of a run that failed, in one short attempt."""
    from crossfold.tracking import store

    with store.best_effort():
        end(run_id, reused, status)


def remember_champion(root: Path, name: str) -> None:
    """Save the next `crossfold predict` the import of MLflow.

    The run has finished: whatever fails here, for example a store that another program locks, must
    not end it as an error.
    """
    from crossfold.predict import local_version
    from crossfold.registry import aliases
    from crossfold.tracking import store

    try:
        client = store.connect()
        lookup = local_version.begin(root, f"{name}@{aliases.CHAMPION}")
        if lookup and (champion := aliases.find_champion(client, name)):
            local_version.remember(lookup, client, champion)
    except Exception as error:
        _logger.warning(
            "the champion could not be remembered for the next `crossfold predict`: %s", error
        )
