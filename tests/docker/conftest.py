"""What the tests need of Docker: an engine that answers, and the images of this tree."""

from collections.abc import Iterator

import docker
import pytest
from docker.errors import DockerException

from crossfold.infra.image_tags import ROLES, image_name

from ..pipeline.projects import SOURCE, Project
from .services import services

__all__ = ["services"]  # a fixture


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """A client of the Docker engine. Without one these tests fail: nothing was shown."""
    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        pytest.fail(
            f"no Docker engine answers ({error}): start one, or leave tests/docker out", False
        )
    yield client
    client.close()


@pytest.fixture(scope="session")
def images(engine: docker.DockerClient) -> dict[str, str]:
    """Each role's image, built by the command that users have."""
    Project(SOURCE).call("crossfold", "images")
    return {role: image_name(role) for role in ROLES}
