"""Connect to the Docker engine, check for images, and remove containers."""

import os
from collections.abc import Sequence
from http import HTTPStatus

import docker
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound

from crossfold.errors import UserError
from crossfold.runners.local.run_folders import Run


def connect_engine(images: Sequence[str]) -> docker.DockerClient:
    """Connect to the Docker engine, and check that it has the images.

    Raises:
        UserError: no engine answers, or it lacks an image.
    """
    try:
        client = _client()
        client.ping()
    except DockerException as error:
        raise UserError(
            f"no Docker engine responds: {error}. Start it, or choose another with DOCKER_HOST or "
            "`docker context use`. `crossfold run` without --on docker needs no engine"
        ) from None
    for image in images:
        try:
            client.images.get(image)
        except ImageNotFound:
            raise UserError(
                f"the image {image} of the current code is missing: run `crossfold images`"
            ) from None
    return client


def _client() -> docker.DockerClient:
    """Connect to the engine that the `docker` command uses, which has built the images."""
    if "DOCKER_HOST" in os.environ:
        return docker.from_env()
    name = os.environ.get("DOCKER_CONTEXT")
    context = ContextAPI.get_context(name)
    if context is None:
        raise DockerException(f"there is no Docker context {name}, which DOCKER_CONTEXT names")
    return docker.DockerClient(base_url=context.Host, tls=context.TLSConfig or False)


def remove_containers(run: Run) -> None:
    """Remove the leftover containers of a killed run.

    Raises:
        UserError: no Docker engine responds.
    """
    try:
        client = _client()
        for container_id in list(run.containers):
            remove_container(client, container_id)
            run.container_removed(container_id)
    except DockerException as error:
        raise UserError(
            f"run {run.id} was killed and left containers. Start the Docker engine, so that they "
            f"can be removed: {error}"
        ) from None


def remove_container(client: docker.DockerClient, container_id: str) -> None:
    """Remove a container at once, running or not."""
    try:
        client.api.remove_container(container_id, force=True, v=True)
    except APIError as error:
        # Gone already, or being removed by another thread.
        if error.status_code not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            raise
