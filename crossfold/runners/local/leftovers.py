"""End the leftover processes and containers of a killed run."""

from .run_folders import Run


def end_leftovers(run: Run) -> None:
    """End the processes and containers that a run has recorded.

    Raises:
        UserError: containers are left, and no Docker engine responds.
    """
    run.end_processes()
    if run.containers:
        # Docker's client is slow to import, and a user of processes may have no engine.
        from crossfold.runners.local.backends.docker_engine import remove_containers

        remove_containers(run)
