"""End what a killed run has left at work: its processes and containers."""

from .runs import Run


def end_leftovers(run: Run) -> None:
    """End the processes and containers that a run has recorded.

    Raises:
        UserError: there are containers, and no Docker engine answers.
    """
    run.end_processes()
    if run.containers:
        # Docker's client is slow to import, and who runs processes may not have an engine.
        from .docker_engine import remove_containers

        remove_containers(run)
