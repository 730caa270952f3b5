"""Run steps as containers, with Kubeflow's DockerRunner.

Kubeflow's own task handler gives every container the same arguments, treats a failed container as
a success (https://github.com/kubeflow/pipelines/issues/13332) and leaves containers running after
an interruption. The small subclass `_ContainerHandler` corrects this.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import docker
import requests
import urllib3
import yaml
from docker.errors import DockerException
from docker.models.containers import Container
from docker.types import Mount
from kfp import local
from kfp.local import docker_task_handler
from kfp.local.status import Status

from crossfold.infra.image_tags import DATA, TRAIN, image_name
from crossfold.runners.base import RunnerName
from crossfold.runners.failures import StepError
from crossfold.runners.local.mlflow_store import served
from crossfold.runners.local.run_folders import Run
from crossfold.runners.local.session import Session, describe, fault_of
from crossfold.settings import Settings
from crossfold.tracking.sqlite_store import SQLITE
from crossfold.versioning import remotes

from .base import step_environment
from .docker_engine import connect_engine, remove_container

# The images' user. An ordinary user's containers run as that user, to write to the user's folder.
IMAGE_USER = 65532
# Errors of Docker's client and, while it waits or streams, of its connection.
_GONE = (DockerException, requests.RequestException, urllib3.exceptions.HTTPError)


_FETCHING = ("fetch_data", "fetch_weights")  # the steps that pull through DVC


@dataclass(frozen=True)
class Surroundings:
    """Variables and folders for the steps' containers, beside Kubeflow's pipeline root.

    Every step gets `environment`. `secrets` (more variables) and `folders` (to read) are keyed by
    the names of the steps that get them.
    """

    environment: Mapping[str, str]
    secrets: Mapping[str, Mapping[str, str]]
    folders: Mapping[str, Sequence[Path]]


class Containers:
    """The backend that runs steps in containers, from the images of this source tree."""

    name: ClassVar[RunnerName] = RunnerName.DOCKER
    cache_name = name.value  # an image's name covers everything that a step's outputs depend on

    def __init__(self, root: Path, settings: Settings) -> None:
        """Connect to a Docker engine that has the images, and read the remote's keys.

        Raises:
            UserError: no engine answers, an image is missing, or the remote is not configured.
        """
        self._engine = connect_engine([image_name(DATA), image_name(TRAIN)])
        self._remote = remotes.remote_environment(root, settings.data.remote)

    def image(self, role: str) -> str:
        """Name the image that a role's steps run in."""
        return image_name(role)

    @contextlib.contextmanager
    def kubeflow_runner(
        self, session: Session, package: Path, pipeline_root: Path
    ) -> Iterator[local.DockerRunner]:
        """Provide Kubeflow's runner with our task handler; serve a store of this machine meanwhile.

        The limits are those in the compiled pipeline `package`.
        """
        _prepare_root(pipeline_root)
        with _tracking(session.run) as environment:
            _ContainerHandler.session = session
            _ContainerHandler.client = self._engine
            _ContainerHandler.surroundings = Surroundings(
                environment,
                secrets=dict.fromkeys(_FETCHING, self._remote),
                folders=dict.fromkeys(_FETCHING, remotes.remote_folders(self._remote)),
            )
            _ContainerHandler.limits = _limits(package, int(self._engine.info()["NCPU"]))
            docker_task_handler.DockerTaskHandler = _ContainerHandler
            yield local.DockerRunner()


@contextlib.contextmanager
def _tracking(run: Run) -> Iterator[dict[str, str]]:
    """Yield the variables for every container; serve a store of this machine meanwhile."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    of_mlflow = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    environment = step_environment(run, of_mlflow)
    if uri.startswith(SQLITE):
        with served(uri, run) as address:
            yield environment | address
    else:
        yield environment


def _prepare_root(pipeline_root: Path) -> None:
    """Create the folder that the containers write to; as root, give it to the images' user."""
    pipeline_root.mkdir(exist_ok=True)
    if os.getuid() == 0:
        os.chown(pipeline_root, IMAGE_USER, IMAGE_USER)


def _limits(package: Path, num_cores: int) -> dict[str, dict[str, Any]]:
    """Read each step's limits of cores and memory, without swap, as `docker run` arguments."""
    spec, *_ = yaml.safe_load_all(package.read_text())  # the second document is for Kubernetes
    executors = spec["deploymentSpec"]["executors"]
    limits = {}
    for executor in executors.values():
        arguments = executor["container"]["args"]
        resources = executor["container"]["resources"]
        # Docker rejects more cores than the machine has, and spells Gi as g.
        cores = min(float(resources["resourceCpuLimit"]), num_cores)
        memory = resources["resourceMemoryLimit"].removesuffix("i").lower()
        limits[arguments[arguments.index("--function_to_execute") + 1]] = {
            "nano_cpus": int(cores * 1e9),
            "mem_limit": memory,
            "memswap_limit": memory,
        }
    return limits


class _ContainerHandler(docker_task_handler.DockerTaskHandler):  # type: ignore[misc]
    """Handle a task in a container with limits, report its exit status, and stop it if needed."""

    session: ClassVar[Session]
    client: ClassVar[docker.DockerClient]
    surroundings: ClassVar[Surroundings]
    limits: ClassVar[Mapping[str, Mapping[str, Any]]]

    def run(self) -> Status:
        """Run the task's command."""
        self.session.run_step(self.full_command, self._start)
        return Status.SUCCESS

    def _start(self) -> "_Container":
        run = self.session.run
        try:
            container = self._create()
            work = _Container(self.client, container, run)
            try:
                run.container_created(container.id)
                container.start()
            except BaseException:  # nobody else could stop it
                work.stop()
                raise
        except DockerException as error:
            raise StepError(f"Docker does not start its container: {error}") from None
        return work

    def _create(self) -> Container:
        name, title, _ = describe(self.full_command)
        around = self.surroundings
        return self.client.containers.create(
            self.image,
            self.full_command,
            labels={"crossfold.run": self.session.run.id, "crossfold.step": title},
            environment={**self.env_vars, **around.environment, **around.secrets.get(name, {})},
            user=f"{os.getuid() or IMAGE_USER}:{os.getgid() or IMAGE_USER}",
            network_mode="host",  # MLflow, and the remote, may be on the host's loopback
            volumes=self._volumes(name),
            mounts=[Mount("/tmp", source=None, type="volume")],
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            **self.limits[name],
        )

    def _volumes(self, name: str) -> dict[str, dict[str, str]]:
        """Mount the pipeline root, without Kubeflow's workspace, and the step's folders to read."""
        root = self.get_volumes_to_mount(self.client)[self.pipeline_root]
        mode = root["mode"].replace("rw", "ro")
        folders = self.surroundings.folders.get(name, ())
        return {
            self.pipeline_root: root,
            **{str(folder): {"bind": str(folder), "mode": mode} for folder in folders},
        }


class _Container:
    """A step's container, recorded in its run while it exists."""

    def __init__(self, client: docker.DockerClient, container: Container, run: Run) -> None:
        self._client = client
        self._container = container
        self._run = run

    def output(self) -> Iterator[str]:
        """Yield the container's output, line by line, until it ends."""
        rest = b""
        with contextlib.suppress(*_GONE):  # `wait` reports the loss
            for chunk in self._container.logs(stream=True):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace") + "\n"
        if rest:
            yield rest.decode(errors="replace") + "\n"

    def wait(self) -> str:
        """Wait for the container's end, remove it, and describe a failure; empty if none."""
        try:
            status = int(self._container.wait()["StatusCode"])
            self._container.reload()
        except _GONE as error:
            return f"Docker lost its container: {error}"
        fault = fault_of(status)
        if self._container.attrs["State"]["OOMKilled"]:
            limit = self._container.attrs["HostConfig"]["Memory"] / 2**30
            fault = f"ran out of memory: its limit is {limit:g} GiB"
        self.stop()
        return fault

    def stop(self) -> None:
        """Remove the container at once: Kubeflow starts it in a shell that passes no signal on."""
        remove_container(self._client, self._container.id)
        self._run.container_removed(self._container.id)
