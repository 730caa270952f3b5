"""Call Docker Compose for the services of one folder."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crossfold.errors import UserError
from crossfold.infra import shell
from crossfold.infra.image_build import check_docker
from crossfold.infra.image_tags import MLFLOW, image_name


@dataclass(frozen=True)
class ComposeProject:
    """The services of compose.yaml in the folder `root`, as `Containers`.

    `environment` is everything in services.env. Methods raise UserError if Compose fails.
    """

    root: Path
    command: tuple[str, ...]
    environment: Mapping[str, str]

    @classmethod
    def find(cls, root: Path, environment: Mapping[str, str]) -> "ComposeProject":
        """Find the Compose command for the services of `root`.

        Raises:
            UserError: Docker or Compose is not available.
        """
        return cls(root, tuple(compose_command()), environment)

    @property
    def _variables(self) -> dict[str, str]:
        """Compose's variables, which override the shell's: its AWS keys are not the store's."""
        return {**self.environment, "CROSSFOLD_MLFLOW_IMAGE": image_name(MLFLOW)}

    def call(self, *arguments: str) -> None:
        """Run a Compose command with its output on the user's terminal."""
        shell.run_visibly(*self.command, *arguments, cwd=self.root, variables=self._variables)

    def call_quietly(self, *arguments: str) -> None:
        """Run a Compose command; only the end of its errors is shown, if it fails."""
        self._stream(*arguments)

    def output(self, service: str, *command: str) -> str:
        """Run a command in a service's container and return its output."""
        whole = (*self.command, *_reach(service), *command)
        return shell.output(*whole, cwd=self.root, variables=self._variables)

    def save(self, path: Path, service: str, *command: str) -> None:
        """Run a command in a service's container with its output in a new file."""
        with path.open("xb") as target:
            self._stream(*_reach(service), *command, target=target)

    def load(self, path: Path, service: str, *command: str) -> None:
        """Run a command that reads a file in a service's container."""
        with path.open("rb") as source:
            self._stream(*_reach(service), *command, source=source)

    def run_script(self, path: Path, service: str) -> None:
        """Run a Python script in a service's running container."""
        with path.open("rb") as source:
            self._stream("exec", "-T", service, "python3", "-", source=source)

    def _stream(
        self, *arguments: str, source: shell.File = None, target: shell.File = None
    ) -> None:
        command = (*self.command, *arguments)
        shell.stream(
            *command, source=source, target=target, cwd=self.root, variables=self._variables
        )

    def container(self, service: str) -> str:
        """Return the id of a service's container, running or not; empty if there is none.

        Compose's own `ps` would list the containers of `run` too, such as an interrupted one's.
        """
        labels = {
            "project": self.environment["COMPOSE_PROJECT_NAME"],
            "service": service,
            "oneoff": "False",
        }
        filters = [f"--filter=label=com.docker.compose.{key}={labels[key]}" for key in labels]
        return shell.output("docker", "ps", "--all", "--quiet", "--no-trunc", *filters)


def _reach(service: str) -> tuple[str, ...]:
    """Reach PostgreSQL where it runs, and start a container of the other services.

    Compose first starts what that service depends on, and waits for it.
    """
    return ("exec", "-T", service) if service == "postgres" else ("run", "--rm", "-T", service)


def compose_command() -> list[str]:
    """Find the Docker Compose command: Docker's plugin, or the older program.

    Raises:
        UserError: Docker or Compose is not available.
    """
    check_docker()
    if shell.run("docker", "compose", "version").returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise UserError(
        "Docker Compose is not there: install docker-compose-plugin (from Docker's packages) or "
        "docker-compose (from Debian's or Ubuntu's)"
    )
