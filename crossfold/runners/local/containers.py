"""Steps as containers: Kubeflow's DockerRunner.

Kubeflow's own handler of a task gives every container the same arguments, takes a failed one for
a success (https://github.com/kubeflow/pipelines/issues/13332) and leaves them running when it is
interrupted. `_ContainerHandler` is the small subclass that does not.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar

import docker
import requests
import urllib3
import yaml
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound
from docker.models.containers import Container
from docker.types import Mount
from kfp import local
from kfp.local import docker_task_handler
from kfp.local.status import Status

from crossfold.errors import UserError
from crossfold.runners.failures import StepError

from .runs import Run
from .session import Session, describe, fault_of

# Whom the images run as. An ordinary user's containers run as that user, whose folder they write.
IMAGE_USER = 65532
# What docker's client raises; while it waits or streams, also what the connection raises.
_GONE = (DockerException, requests.RequestException, urllib3.exceptions.HTTPError)


def engine(images: Sequence[str]) -> docker.DockerClient:
    """Return a client of the Docker engine, which has these images.

    Raises:
        UserError: no engine answers, or it lacks an image.
    """
    try:
        client = _client()
        client.ping()
    except DockerException as error:
        raise UserError(
            f"no Docker engine answers: {error}. Start it, or name it to the `docker` command "
            "(DOCKER_HOST, docker context); `crossfold run` without --on docker needs none"
        ) from None
    for image in images:
        try:
            client.images.get(image)
        except ImageNotFound:
            raise UserError(
                f"the image {image}, made of the code as it is now, is not built: make images"
            ) from None
    return client


def _client() -> docker.DockerClient:
    """Return a client of the engine that the `docker` command uses, which has built the images."""
    if "DOCKER_HOST" in os.environ:
        return docker.from_env()
    name = os.environ.get("DOCKER_CONTEXT")
    context = ContextAPI.get_context(name)
    if context is None:
        raise DockerException(f"DOCKER_CONTEXT names {name}, which is no context")
    return docker.DockerClient(base_url=context.Host, tls=context.TLSConfig or False)


def remove_left(run: Run) -> None:
    """Remove the containers that a killed run has left."""
    if not run.containers:
        return
    try:
        client = _client()
        for container_id in list(run.containers):
            _remove(client, container_id)
            run.container_removed(container_id)
    except DockerException as error:
        raise UserError(
            f"run {run.id} was killed and left containers, and no Docker engine answers to remove "
            f"them: {error}. Start it"
        ) from None


def _remove(client: docker.DockerClient, container_id: str) -> None:
    try:
        client.api.remove_container(container_id, force=True, v=True)
    except APIError as error:
        # Gone already, or being removed by another thread.
        if error.status_code not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            raise


@dataclass(frozen=True)
class Surroundings:
    """What the steps' containers get from outside, beside Kubeflow's pipeline root.

    `environment` is every step's. By the name of the step that alone gets them: `secrets`, more
    variables, and `folders`, which it may read.
    """

    environment: Mapping[str, str]
    secrets: Mapping[str, Mapping[str, str]]
    folders: Mapping[str, Sequence[Path]]


def docker_runner(
    session: Session, client: docker.DockerClient, package: Path, surroundings: Surroundings
) -> local.DockerRunner:
    """Return Kubeflow's runner for a session whose steps are containers.

    The limits are those that the compiled pipeline `package` states.
    """
    _ContainerHandler.session = session
    _ContainerHandler.client = client
    _ContainerHandler.surroundings = surroundings
    _ContainerHandler.limits = _limits(package, int(client.info()["NCPU"]))
    docker_task_handler.DockerTaskHandler = _ContainerHandler
    return local.DockerRunner()


def prepare_root(pipeline_root: Path) -> None:
    """Make the folder that the containers write to; as root, hand it to the images' user."""
    pipeline_root.mkdir(exist_ok=True)
    if os.getuid() == 0:
        os.chown(pipeline_root, IMAGE_USER, IMAGE_USER)


def _limits(package: Path, num_cores: int) -> dict[str, dict[str, Any]]:
    """Return the arguments of `docker run` that limit each step's cores and memory, no swap."""
    spec, *_ = yaml.safe_load_all(package.read_text())  # after it comes what Kubernetes is told
    executors = spec["deploymentSpec"]["executors"]
    limits = {}
    for executor in executors.values():
        arguments = executor["container"]["args"]
        resources = executor["container"]["resources"]
        # Docker refuses more cores than there are, and takes Gi as g.
        cores = min(float(resources["resourceCpuLimit"]), num_cores)
        memory = resources["resourceMemoryLimit"].removesuffix("i").lower()
        limits[arguments[arguments.index("--function_to_execute") + 1]] = {
            "nano_cpus": int(cores * 1e9),
            "mem_limit": memory,
            "memswap_limit": memory,
        }
    return limits


class _ContainerHandler(docker_task_handler.DockerTaskHandler):  # type: ignore[misc]
    """Kubeflow's handler of one task, with limits, an exit status and an end of its own."""

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
            except BaseException:  # nobody would know of it
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
        """Return the pipeline root, without Kubeflow's workspace, and what the step may read."""
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
        """Yield what it says, line by line, until it ends."""
        rest = b""
        with contextlib.suppress(*_GONE):  # then `wait` says so
            for chunk in self._container.logs(stream=True):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace") + "\n"
        if rest:
            yield rest.decode(errors="replace") + "\n"

    def wait(self) -> str:
        """Wait for its end, remove it and return what its state says of a failure."""
        try:
            status = int(self._container.wait()["StatusCode"])
            self._container.reload()
        except _GONE as error:
            return f"Docker lost its container: {error}"
        fault = fault_of(status)
        if self._container.attrs["State"]["OOMKilled"]:
            limit = self._container.attrs["HostConfig"]["Memory"] / 2**30
            fault = f"needed more than the {limit:g} GiB of memory that the pipeline gives it"
        self.stop()
        return fault

    def stop(self) -> None:
        """Remove it at once: the shell that Kubeflow starts it with passes no signal on."""
        _remove(self._client, self._container.id)
        self._run.container_removed(self._container.id)
