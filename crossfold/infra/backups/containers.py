"""Run commands in the containers of the services, wherever these run."""

from pathlib import Path
from typing import Protocol


class Containers(Protocol):
    """The services' containers, in Docker or on a cluster.

    `service` is `postgres` or, on a cluster, `mysql`: its running container. Or it is `mlflow` or
    `buckets`: a container with MLflow's image, and for `buckets` with the object store's root key.
    Methods raise UserError if the command fails.
    """

    def output(self, service: str, *command: str) -> str:
        """Run a command and return its output, without surrounding white space."""

    def save(self, path: Path, service: str, *command: str) -> None:
        """Run a command with its output in a new file."""

    def load(self, path: Path, service: str, *command: str) -> None:
        """Run a command that reads a file."""
