"""The services of compose.yaml for the tests, with ports, passwords and volumes of their own.

PostgreSQL is Debian's. An object store is its image, the server on the PATH, or built from its Go
module.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import docker
import pytest
import requests
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError
from docker.models.containers import Container

from crossfold.infra.object_store import VERSITYGW_FILE, ObjectStore
from crossfold.infra.services import compose as project_services

from ..pipeline.projects import Project

PROJECT = Path(__file__).parents[2]
HERE = Path(__file__).parent
MIN_SECRETS = 5  # services.env has more

# What `go install` takes: the releases of compose.yaml and compose.versitygw.yaml.
GO_MODULES = {
    ObjectStore.MINIO: "github.com/minio/minio@v0.0.0-20250907161309-07c3a429bfed",
    ObjectStore.VERSITYGW: "github.com/versity/versitygw/cmd/versitygw@v1.8.0",
}

BUCKETS = ("dvc", "mlflow", "pipelines")
RIGHTS = {  # of a user, in each of BUCKETS
    "mlflow": ("", "dlrw", ""),
    "pipelines": ("", "", "dlrw"),
    "dvc": ("dlrw", "", ""),
    "dvc-reader": ("lr", "", ""),
}


class Services:
    """The services of a folder. `name` in its methods is a name in compose.yaml.

    `store` says what the object store is.
    """

    def __init__(self, root: Path, engine: docker.DockerClient, store: str) -> None:
        self.root = root
        self.store = store
        self.engine = engine
        self.project = self.settings["COMPOSE_PROJECT_NAME"]
        self.tracking_uri = self.settings["MLFLOW_TRACKING_URI"]
        self.s3_endpoint = f"http://127.0.0.1:{self.settings['CROSSFOLD_S3_PORT']}"

    @property
    def settings(self) -> dict[str, str]:
        """All of services.env, the services' own passwords too."""
        return project_services.read_environment(self.root / project_services.ENVIRONMENT)

    def environment(self) -> dict[str, str]:
        """Return what `source services.env` exports."""
        shown = Project(self.root).call("env", "-i", "bash", "-c", "source services.env && env")
        found = dict(line.split("=", 1) for line in shown.splitlines())
        return {name: value for name, value in found.items() if name not in ("PWD", "SHLVL", "_")}

    def up(self) -> str:
        """Start what does not run, and return what the user is told."""
        return Project(self.root).call("crossfold", "services", "up")

    def down(self) -> None:
        """Stop all; the data stays."""
        Project(self.root).call("crossfold", "services", "down")

    def destroy(self) -> None:
        """Remove containers and data."""
        self.down()
        label = f"com.docker.compose.project={self.project}"
        for volume in self.engine.volumes.list(filters={"label": label}):
            volume.remove()

    def container(self, name: str) -> Container:
        labels = [
            f"com.docker.compose.project={self.project}",
            f"com.docker.compose.service={name}",
        ]
        filters = {"label": labels}
        (container,) = self.engine.containers.list(all=True, filters=filters, ignore_removed=True)
        return container

    def kill(self, name: str) -> None:
        """End a service as a lost machine would, in no time and with no word."""
        self.container(name).kill()

    def start(self, name: str) -> None:
        """Start a service that was killed, and wait until it works."""
        container = self.container(name)
        container.start()
        works = self.s3_answers if name == "minio" else lambda: healthy(container)
        wait(works)

    def s3_answers(self) -> bool:
        try:
            requests.get(self.s3_endpoint, timeout=1)
        except requests.RequestException:
            return False
        return True

    def s3(self, user: str = "dvc") -> Any:
        """Return a client with a user's key; without a name, with the one that runs have."""
        names = {"dvc": "AWS_SECRET_ACCESS_KEY", "mlflow": "S3_PASSWORD_MLFLOW"}
        return s3_client(self.s3_endpoint, user, self.settings[names[user]])

    def secrets(self) -> set[str]:
        """Return every password and key of the services."""
        words = ("PASSWORD", "SECRET")
        found = {v for k, v in self.settings.items() if any(word in k for word in words)}
        assert len(found) > MIN_SECRETS
        return found

    def dump(self) -> bytes:
        """Return all databases as SQL."""
        code, output = self.container("postgres").exec_run(
            ["pg_dumpall", "--host=127.0.0.1", "--username=mlflow", "--no-role-passwords"],
            environment={"PGPASSWORD": self.settings["POSTGRES_PASSWORD"]},
        )
        assert code == 0, output.decode()
        return bytes(output)

    def objects(self, bucket: str) -> Iterator[tuple[str, bytes]]:
        """Return the key and the content of each object."""
        return s3_objects(self.s3(bucket), bucket)

    def psql(self, query: str, database: str = "mlflow") -> list[str]:
        """Return the rows that PostgreSQL answers, columns separated by |."""
        code, output = self.container("postgres").exec_run(
            ["psql", "--host=127.0.0.1", "--username=mlflow", "-qAtc", query, database],
            environment={"PGPASSWORD": self.settings["POSTGRES_PASSWORD"]},
        )
        assert code == 0, output.decode()
        rows: list[str] = output.decode().splitlines()
        return rows


def s3_client(address: str, user: str, password: str) -> Any:
    return botocore.session.get_session().create_client(
        "s3",
        endpoint_url=address,
        aws_access_key_id=user,
        aws_secret_access_key=password,
        region_name="us-east-1",
        # Without it, botocore signs addresses in the way of before 2014.
        config=Config(signature_version="s3v4"),
    )


def s3_objects(client: Any, bucket: str) -> Iterator[tuple[str, bytes]]:
    """Yield the key and the content of each object."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page.get("Contents", []):
            key = found["Key"]
            yield key, client.get_object(Bucket=bucket, Key=key)["Body"].read()


def rights(client: Any, bucket: str) -> str:
    """Return which of list, read, write and delete a key may do in a bucket, by a letter each."""
    where = {"Bucket": bucket, "Key": "tried"}
    tried: dict[str, Callable[[], Any]] = {
        "w": lambda: client.put_object(**where, Body=b"data"),
        "l": lambda: client.list_objects_v2(Bucket=bucket),
        "r": lambda: client.get_object(**where),
        "d": lambda: client.delete_object(**where),
    }
    allowed = ""
    for letter, call in tried.items():
        try:
            call()
        except ClientError as error:
            assert error.response["Error"]["Code"] in ("AccessDenied", "NoSuchKey"), error
            allowed += letter if error.response["Error"]["Code"] == "NoSuchKey" else ""
        else:
            allowed += letter
    return "".join(sorted(allowed))


def healthy(container: Container) -> bool:
    container.reload()
    return bool(container.attrs["State"]["Health"]["Status"] == "healthy")


def wait(condition: Callable[[], bool], timeout: float = 90) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not so after {timeout} s"
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def services(
    engine: docker.DockerClient,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Iterator[Services]:
    """MLflow, PostgreSQL and an object store, started as a user starts them."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with prepared(tmp_path_factory.mktemp("services"), engine) as services:
        with capture.global_and_fixture_disabled():
            print(f"\nobject store: {services.store}")
        services.up()
        yield services


@contextmanager
def prepared(root: Path, engine: docker.DockerClient) -> Iterator[Services]:
    """Yield services of a folder that are not started; what they leave goes with the block."""
    for file in ("compose.yaml", VERSITYGW_FILE, "tests/docker/compose.test.yaml"):
        shutil.copy(PROJECT / file, root)
    store, image = object_store()
    path = root / project_services.ENVIRONMENT
    project_services.write_environment(
        path,
        project=f"crossfold-test-{os.getpid()}-{root.name}",
        mlflow_port=free_port(),
        s3_port=free_port(),
    )
    with path.open("a") as settings:
        settings.write("COMPOSE_FILE=compose.yaml:compose.test.yaml\n")
        settings.write(f"CROSSFOLD_TEST_S3={image}\n")
        settings.write(f"CROSSFOLD_TEST_POSTGRES={build('postgres', HERE / 'postgres')}\n")
    services = Services(root, engine, store)
    try:
        yield services
    finally:
        services.destroy()


@cache  # it may try to pull an image, and build one
def object_store(store: ObjectStore = ObjectStore.MINIO) -> tuple[str, str]:
    """Return what the object store is, and its image."""
    file = VERSITYGW_FILE if store is ObjectStore.VERSITYGW else "compose.yaml"
    composed = yaml.safe_load((PROJECT / file).read_text())
    image = composed["services"]["minio"]["image"]
    if _has(image) or _pull(image):
        return image, image
    program = Path(shutil.which(store) or _built(store))
    with tempfile.TemporaryDirectory() as context:
        shutil.copy(HERE / "s3" / f"{store}.Dockerfile", Path(context) / "Dockerfile")
        shutil.copy(program, Path(context) / store)
        return str(program), build(store, Path(context))


def _has(image: str) -> bool:
    command = ["docker", "image", "inspect", image]
    return subprocess.run(command, capture_output=True).returncode == 0


def _pull(image: str) -> bool:
    try:
        pull = subprocess.run(
            ["docker", "pull", "--quiet", image], capture_output=True, timeout=300
        )
    except subprocess.TimeoutExpired:
        return False
    return pull.returncode == 0


def _built(store: ObjectStore) -> Path:
    """Return a store's server, built from its Go module into the user's cache the first time."""
    module = GO_MODULES[store]
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(home) / "crossfold-tests"
    program = cache / f"{store}-{module.partition('@')[2]}"
    if not program.exists():
        assert shutil.which("go"), f"neither {store} nor Go, which builds it, is to be had"
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": folder}
            subprocess.run(["go", "install", module], env=environment, check=True)
            (Path(folder) / store).replace(program)
    return program


def build(name: str, context: Path, *options: str) -> str:
    """Build a test image and return its name, which no image with another content has."""
    built = subprocess.run(
        ["docker", "build", "--quiet", *options, str(context)],
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    image_id = built.stdout.strip()
    image = f"crossfold-test-{name}:{image_id.removeprefix('sha256:')[:16]}"
    subprocess.run(["docker", "tag", image_id, image], check=True)
    return image
