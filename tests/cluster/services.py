"""The services of manifests/ on a real Kubernetes, with images, passwords and volumes of their own.

PostgreSQL is Debian's, the object store what tests/docker/services.py can have.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from pipelines.cluster import KUBEFLOW, SERVICES, make_secrets
from pipelines.images import DATA, MLFLOW
from pipelines.kubectl import Object

from ..docker.services import HERE as DOCKER_TESTS
from ..docker.services import build, free_port, object_store
from .cluster import TestCluster

HERE = Path(__file__).parent
OURS = "crossfold-tests"  # the label of what may be deleted
STATEFUL = ("minio", "postgres")
# versitygw has one address that tells its health, MinIO one for each question.
VERSITYGW = {
    "target": {"kind": "StatefulSet", "name": "minio"},
    "patch": yaml.safe_dump(
        [
            {
                "op": "replace",
                "path": "/spec/template/spec/containers/0/readinessProbe/httpGet/path",
                "value": "/minio/health/live",
            }
        ]
    ),
}


class Services:
    """The running services. `name` in its methods is that of a namespace and its workload."""

    def __init__(
        self,
        cluster: TestCluster,
        root: Path,
        images: Sequence[Object],
        patches: Sequence[Object],
    ) -> None:
        self.cluster = cluster
        self.root = root
        self._images = images
        self._patches = patches

    def objects(self, *patches: Object, images: Sequence[Object] = ()) -> list[Object]:
        """Return the manifests, changed by patches and images."""
        changed = {image["name"] for image in images}
        kept = [image for image in self._images if image["name"] not in changed]
        overlay = {
            "resources": [os.path.relpath(HERE / "manifests", self.root)],
            "images": [*kept, *images],
            "patches": [*self._patches, *patches],
        }
        (self.root / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        return list(yaml.safe_load_all(self.cluster.kubectl("kustomize", str(self.root))))

    def apply(self, objects: Sequence[Object]) -> None:
        """Bring the cluster to the state described, as `crossfold cluster up` does."""
        self.cluster.apply([found for found in objects if found["kind"] == "Namespace"])
        make_secrets(self.cluster, print)
        self.cluster.kubectl("delete", "job/buckets", "--namespace=minio", "--ignore-not-found")
        self.cluster.apply(objects)
        self.wait()

    def wait(self) -> None:
        """Wait until all works."""
        for name in STATEFUL:
            self.rolled_out(name)
        done = "--for=condition=complete"
        self.cluster.kubectl("wait", done, "job/buckets", "--namespace=minio", *_patiently(180))
        self.rolled_out("mlflow")
        ready = ("wait", "--for=condition=ready", "pod/client", f"--namespace={KUBEFLOW}")
        self.cluster.kubectl(*ready, *_patiently(120))

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

    def python(self, code: str, *arguments: str) -> str:
        """Return what Python prints where steps run."""
        return self.cluster.kubectl(*_IN_CLIENT, "python3", "-c", code, *arguments)

    def s3(self, code: str) -> Any:
        """Return the value of an expression in which `s3` is a client that holds the key."""
        lines = (
            "import boto3, json, os",
            "s3 = boto3.client('s3', endpoint_url=os.environ['MLFLOW_S3_ENDPOINT_URL'])",
            f"print(json.dumps({code}, default=str))",
        )
        where = ("exec", "deployment/mlflow", "--namespace=mlflow", "--")
        return json.loads(self.cluster.kubectl(*where, "python3", "-c", "\n".join(lines)))

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
        "quay.io/minio/minio": _tagged(engine, store_image, "s3"),
        "postgres": _tagged(engine, build("postgres", DOCKER_TESTS / "postgres"), "postgres"),
        "crossfold-mlflow": images[MLFLOW],
        "crossfold-data": images[DATA],
    }
    for image in replaced.values():
        cluster.load(image)
    root = tmp_path_factory.mktemp("manifests")
    volumes = tmp_path_factory.mktemp("volumes")
    patches = [VERSITYGW] if "versitygw" in store_image else []
    started = Services(cluster, root, [replacement(*pair) for pair in replaced.items()], patches)
    try:
        if not cluster.has_provisioner():
            cluster.apply([_volume(name, volumes / name) for name in STATEFUL])
        started.apply(started.objects())
        yield started
    finally:
        _remove(cluster)
        shutil.rmtree(volumes)


def _patiently(seconds: int) -> tuple[str, str]:
    """Return options of a command of kubectl that waits, longer than one request may take."""
    return f"--timeout={seconds}s", "--request-timeout=0"


def replacement(name: str, image: str) -> Object:
    """Return kustomize's words for another image in the place of one."""
    new_name, tag = image.split(":")
    return {"name": name, "newName": new_name, "newTag": tag}


def _tagged(engine: docker.DockerClient, image: str, name: str) -> str:
    """Give an image a name that says its content, as the cluster keeps what has a name."""
    found = engine.images.get(image)
    tag = found.id.removeprefix("sha256:")[:16]
    found.tag(f"crossfold-test-{name}", tag)
    return f"crossfold-test-{name}:{tag}"


def _volume(name: str, folder: Path) -> Object:
    """Return a volume for the claim of a StatefulSet, where the cluster makes none by itself."""
    folder.mkdir()
    folder.chmod(0o777)  # fsGroup does nothing for a folder of the node
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"crossfold-tests-{name}", "labels": {OURS: "true"}},
        "spec": {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": name, "name": f"data-{name}-0"},
            "hostPath": {"path": str(folder), "type": "Directory"},
        },
    }


def _remove(cluster: TestCluster) -> None:
    """Delete what these tests made, now or in a run that was ended; nothing else is touched."""
    for name in (*SERVICES, KUBEFLOW):
        found = cluster.get("namespace", name)
        assert not found or found["metadata"]["labels"].get(OURS) == "true", (
            f"the cluster has a namespace {name} that is not of these tests: "
            "give them a cluster of their own"
        )
    label = f"--selector={OURS}=true"
    cluster.kubectl("delete", "namespaces", label, *_patiently(180))
    cluster.kubectl("delete", "persistentvolumes", label, *_patiently(60))
