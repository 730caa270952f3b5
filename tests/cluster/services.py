"""The services of manifests/ on a real Kubernetes, with images, passwords and volumes of their own.

PostgreSQL is Debian's, MinIO that of tests/docker/services.py. Kubeflow is not there: pods stand in
for its page and a Deployment, and Debian's MariaDB for its MySQL.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from crossfold.infra.cluster.addresses import KUBEFLOW, SERVICES
from crossfold.infra.cluster.kubectl import Object
from crossfold.infra.cluster.lifecycle import bring_up
from crossfold.infra.image_tags import DATA, MLFLOW

from ..docker.services import HERE as DOCKER_TESTS
from ..docker.services import build, free_port, object_store, s3_client, s3_objects
from ..pipeline.projects import SOURCE
from .cluster import TestCluster

HERE = Path(__file__).parent
MANIFESTS = SOURCE / "manifests"
COMPONENTS = ("kind", "small")  # the tests share two cores with everything else
OURS = "crossfold-tests"  # the label of what may be deleted
STATEFUL = ("minio", "postgres")
MIN_SECRETS = 10
MIN_LENGTH = 8  # shorter values, as a user's name, are found anywhere


class Services:
    """The running services. `name` in its methods is that of a namespace and its workload."""

    def __init__(self, cluster: TestCluster, root: Path, images: Sequence[Object]) -> None:
        self.cluster = cluster
        self.root = root
        self._images = images

    def objects(
        self,
        *patches: Object,
        images: Sequence[Object] = (),
        components: Sequence[str] = COMPONENTS,
    ) -> list[Object]:
        """Return the manifests, changed by patches and images."""
        changed = {image["name"] for image in images}
        kept = [image for image in self._images if image["name"] not in changed]
        overlay = {
            "resources": [os.path.relpath(HERE / "manifests", self.root)],
            "components": [os.path.relpath(MANIFESTS / name, self.root) for name in components],
            "images": [*kept, *images],
            "patches": list(patches),
        }
        (self.root / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        objects = list(yaml.safe_load_all(self.cluster.kubectl("kustomize", str(self.root))))
        for file in ("network.yaml", "quota.yaml", "steps.yaml"):
            for found in yaml.safe_load_all((MANIFESTS / "kubeflow" / file).read_text()):
                found["metadata"]["namespace"] = KUBEFLOW
                objects.append(found)
        return objects

    def apply(self, objects: Sequence[Object]) -> None:
        """Bring the cluster to the state described, as `crossfold cluster up` does."""
        bring_up(self.cluster, objects, print)
        # Not all pods: one that is ending would be waited for in vain.
        ready = ("wait", "--for=condition=ready", "pod/client", "pod/page")
        self.cluster.kubectl(*ready, f"--namespace={KUBEFLOW}", *_patiently(120))

    def rolled_out(self, name: str) -> None:
        """Wait until each pod is that of the present manifests, and ready."""
        kind = "statefulset" if name in STATEFUL else "deployment"
        status = ("rollout", "status", f"{kind}/{name}", f"--namespace={name}")
        self.cluster.kubectl(*status, *_patiently(300))

    def ready(self, name: str) -> bool:
        """Whether the workload has all its pods, each of them ready."""
        return self.num_ready(name) == (2 if name == "mlflow" else 1)

    def num_ready(self, name: str) -> int:
        conditions = [
            condition
            for pod in self.cluster.pods(name, name)
            for condition in pod["status"].get("conditions", [])
        ]
        return sum(found["type"] == "Ready" and found["status"] == "True" for found in conditions)

    def delete_pods(self, name: str, number: int, *options: str) -> None:
        """Delete pods, and wait until they are gone; others take their place."""
        pods = [pod["metadata"]["name"] for pod in self.cluster.pods(name, name)][:number]
        assert len(pods) == number
        self.cluster.kubectl("delete", "pod", *pods, f"--namespace={name}", *options)

    def psql(self, query: str) -> list[str]:
        """Return the rows that PostgreSQL answers, columns separated by |."""
        command = f"PGPASSWORD=$POSTGRES_PASSWORD psql -h 127.0.0.1 -U mlflow -qAtc {query!r}"
        where = ("exec", "postgres-0", "--namespace=postgres", "--")
        return self.cluster.kubectl(*where, "sh", "-c", command).splitlines()

    def mysql(self, program: str, *options: str) -> str:
        """Return what a program of MySQL prints, run as its root."""
        login = 'MYSQL_PWD="$MYSQL_ROOT_PASSWORD" exec "$0" --user=root "$@"'
        where = ("exec", "deployment/mysql", f"--namespace={KUBEFLOW}", "--")
        return self.cluster.kubectl(*where, "sh", "-c", login, program, *options)

    def objects_of(self, bucket: str) -> dict[str, bytes]:
        """Return the content of each object by its key."""
        return dict(s3_objects(self.s3(bucket), bucket))

    def secrets(self) -> set[str]:
        """Return every password and key in the namespaces."""
        found = {
            value
            for namespace in (*SERVICES, KUBEFLOW)
            for secret in self.cluster.items("secrets", f"--namespace={namespace}")
            for key, value in (
                self.cluster.secret(namespace, secret["metadata"]["name"]) or {}
            ).items()
            if any(word in key.upper() for word in ("PASSWORD", "SECRET"))
        }
        assert len(found) > MIN_SECRETS and min(map(len, found)) >= MIN_LENGTH
        return found

    def destroy(self) -> None:
        """Delete all: pods, volumes and passwords."""
        _remove(self.cluster)

    def python(self, code: str, *arguments: str) -> str:
        """Return what Python prints where steps run."""
        return self.cluster.kubectl(*_IN_CLIENT, "python3", "-c", code, *arguments)

    def s3(self, user: str) -> Any:
        """Return a client of the object store with a user's key, at the port of this machine."""
        store, users = (self.cluster.secret("minio", name) for name in ("minio", "users"))
        assert store and users
        name = f"S3_PASSWORD_{user.upper().replace('-', '_')}"
        root = user == store["MINIO_ROOT_USER"]
        password = store["MINIO_ROOT_PASSWORD"] if root else users[name]
        return s3_client("http://127.0.0.1:9000", user, password)

    @contextmanager
    def started(self, code: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
        """Start Python where steps run."""
        with subprocess.Popen(
            ["kubectl", *_IN_CLIENT, "python3", "-c", code, *arguments],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def forwarded(self, name: str, port: int) -> Iterator[str]:
        """Make a Service reachable from this machine, as users do; the value is its address."""
        local = free_port()
        command = ["kubectl", "port-forward", f"service/{name}", f"{local}:{port}"]
        with subprocess.Popen(
            [*command, f"--namespace={name}"], stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout
                assert "Forwarding from 127.0.0.1" in process.stdout.readline()
                yield f"http://127.0.0.1:{local}"
            finally:
                process.kill()


_IN_CLIENT = ("exec", "client", f"--namespace={KUBEFLOW}", "--")


@pytest.fixture(scope="session")
def services(
    cluster: TestCluster,
    engine: docker.DockerClient,
    images: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Iterator[Services]:
    """The services, ready to work; in the end, nothing is left of them."""
    _remove(cluster)
    store, store_image = object_store()
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        print(f"\nobject store: {store}")
    replaced = {
        "quay.io/minio/minio": tagged(engine, store_image, "s3"),
        "postgres": tagged(engine, build("postgres", DOCKER_TESTS / "postgres"), "postgres"),
        "mysql": tagged(engine, build("mysql", HERE / "mysql"), "mysql"),
        "crossfold-mlflow": images[MLFLOW],
        "crossfold-data": images[DATA],
    }
    for image in replaced.values():
        cluster.load(image)
    root = tmp_path_factory.mktemp("manifests")
    started = Services(cluster, root, [replacement(*pair) for pair in replaced.items()])
    try:
        started.apply(started.objects())
        yield started
    finally:
        _remove(cluster)


def _patiently(seconds: int) -> tuple[str, str]:
    """Return options of a command of kubectl that waits, longer than one request may take."""
    return f"--timeout={seconds}s", "--request-timeout=0"


def replacement(name: str, image: str) -> Object:
    """Return kustomize's words for another image in the place of one."""
    new_name, tag = image.split(":")
    return {"name": name, "newName": new_name, "newTag": tag}


def tagged(engine: docker.DockerClient, image: str, name: str) -> str:
    """Give an image a name that says its content, as the cluster keeps what has a name."""
    found = engine.images.get(image)
    tag = found.id.removeprefix("sha256:")[:16]
    found.tag(f"crossfold-test-{name}", tag)
    return f"crossfold-test-{name}:{tag}"


def _remove(cluster: TestCluster) -> None:
    """Delete what these tests made, now or in a run that was ended; nothing else is touched."""
    for name in (*SERVICES, KUBEFLOW):
        found = cluster.get("namespace", name)
        assert not found or found["metadata"]["labels"].get(OURS) == "true", (
            f"the cluster has a namespace {name} that is not of these tests: "
            "give them a cluster of their own"
        )
    cluster.kubectl("delete", "namespaces", f"--selector={OURS}=true", *_patiently(180))
