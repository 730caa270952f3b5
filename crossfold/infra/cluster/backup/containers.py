"""Run commands in the containers of a cluster's stores, and in a pod with MLflow's image."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from crossfold.errors import UserError
from crossfold.infra import shell
from crossfold.infra.cluster.addresses import KUBEFLOW, MINIO_URI
from crossfold.infra.cluster.kubectl import Cluster, Object

_STORES = {
    "postgres": ("postgres", "statefulset/postgres"),
    "mysql": (KUBEFLOW, "deployment/mysql"),
}
_POD = ("minio", "pod/backup")
_POD_LIFETIME = 86_400  # seconds; a killed command leaves its pod
_START_TIMEOUT = 120  # seconds


@dataclass(frozen=True)
class ClusterContainers:
    """The `Containers` of a cluster, within `started_containers`."""

    cluster: Cluster

    def output(self, service: str, *command: str) -> str:
        """Run a command in a service's container and return its output."""
        return shell.output(*self._exec(service), *command)

    def save(self, path: Path, service: str, *command: str) -> None:
        """Run a command in a service's container with its output in a new file."""
        with path.open("xb") as target:
            shell.stream(*self._exec(service), *command, target=target)

    def load(self, path: Path, service: str, *command: str) -> None:
        """Run a command that reads a file in a service's container."""
        with path.open("rb") as source:
            shell.stream(*self._exec(service), *command, source=source)

    def _exec(self, service: str) -> tuple[str, ...]:
        namespace, workload = _STORES.get(service, _POD)
        where = (f"--context={self.cluster.context}", f"--namespace={namespace}")
        return ("kubectl", *where, "exec", "--stdin", workload, "--")


@contextmanager
def started_containers(cluster: Cluster) -> Iterator[ClusterContainers]:
    """Start a pod with MLflow's image for the block, and yield the cluster's containers.

    There is one pod for all commands, so that two of them are never at work at once.

    Raises:
        UserError: MLflow is not installed, another command is at work, or the pod does not start.
    """
    namespace, pod = _POD
    where = (pod, f"--namespace={namespace}")
    if cluster.get(*where):
        raise UserError(
            "another backup or restore is at work, or was killed. If none is at work, run this "
            f"and try again: kubectl --context {cluster.context} delete {pod} -n {namespace}"
        )
    cluster.kubectl("create", "--filename=-", given=json.dumps(_pod(_mlflow_image(cluster))))
    try:
        patience = (f"--timeout={_START_TIMEOUT}s", "--request-timeout=0")
        cluster.kubectl("wait", "--for=condition=ready", *where, *patience)
        yield ClusterContainers(cluster)
    except BaseException:  # an interrupt too
        with suppress(UserError):  # a lost connection; the next command says how to delete the pod
            cluster.kubectl("delete", *where, "--ignore-not-found")
        raise
    cluster.kubectl("delete", *where, "--ignore-not-found")


def _mlflow_image(cluster: Cluster) -> str:
    server = cluster.get("deployment", "mlflow", "--namespace=mlflow")
    if not server:
        raise UserError(
            f"{cluster.context} does not have the services: run `crossfold cluster up` first"
        )
    return str(server["spec"]["template"]["spec"]["containers"][0]["image"])


def _pod(image: str) -> Object:
    # The NetworkPolicies let the Job `buckets` reach the object store.
    labels = {"app.kubernetes.io/name": "buckets"}
    metadata = {"name": "backup", "namespace": "minio", "labels": labels}
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(image)],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _container(image: str) -> Object:
    return {
        "name": "backup",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", str(_POD_LIFETIME)],
        "env": [
            {"name": "MLFLOW_S3_ENDPOINT_URL", "value": MINIO_URI},
            _root_key("AWS_ACCESS_KEY_ID", "MINIO_ROOT_USER"),
            _root_key("AWS_SECRET_ACCESS_KEY", "MINIO_ROOT_PASSWORD"),
        ],
        "resources": {
            "requests": {"cpu": "10m", "memory": "128Mi"},
            "limits": {"cpu": "1", "memory": "512Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _root_key(variable: str, key: str) -> Object:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": "minio", "key": key}}}
