"""Who reaches whom: pods by connections, this machine by the node's ports."""

import time
from collections.abc import Iterator

import pytest
import requests

from crossfold.infra.cluster.addresses import KUBEFLOW, SERVICES
from crossfold.infra.cluster.kubectl import Object

from .cluster import TestCluster
from .services import OURS, Services
from .test_pods import pod

# Every address in turn, all at once; bash has no client of its own but these devices.
CONNECT = """
for target in "$@"; do
  (timeout 3 bash -c "</dev/tcp/${target%:*}/${target#*:}" 2>/dev/null && echo "$target") &
done
wait
"""
# Through a node's port a policy sees the pod behind it. What runs on the node itself, as
# Kubernetes' API does, is outside of the policies here.
ALLOWED = {
    "mlflow": {"minio", "postgres", "dns", "port of minio"},
    "minio": set(),
    "postgres": set(),
    "buckets": {"minio", "dns", "port of minio"},
    "guest-minio": set(),
    "guest-mlflow": set(),
    "guest-postgres": set(),
    # A step.
    "client": {"minio", "mlflow", "page", "dns", "port of minio", "port of mlflow", "port of page"},
    # MLflow asks for a login, so whoever can reach its pages may.
    "stranger": {"mlflow", "dns", "port of mlflow"},
}


@pytest.fixture(scope="module")
def targets(services: Services, cluster: TestCluster) -> dict[str, str]:
    """Addresses of pods, so that nobody needs a name server to reach them."""

    def address(namespace: str, name: str, port: int) -> str:
        return f"{cluster.pods(namespace, name)[0]['status']['podIP']}:{port}"

    (node,) = cluster.items("nodes")
    found = {kind["type"]: kind["address"] for kind in node["status"]["addresses"]}
    dns = cluster.items("pods", "--namespace=kube-system", "--selector=k8s-app=kube-dns")
    return {
        "minio": address("minio", "minio", 9000),
        "postgres": address("postgres", "postgres", 5432),
        "mlflow": address("mlflow", "mlflow", 5000),
        "page": address(KUBEFLOW, "page", 3000),
        "dns": f"{dns[0]['status']['podIP']}:53",
        "port of minio": f"{found['InternalIP']}:30900",
        "port of mlflow": f"{found['InternalIP']}:30500",
        "port of page": f"{found['InternalIP']}:30080",
    }


@pytest.fixture(scope="module")
def sources(
    services: Services, cluster: TestCluster, images: dict[str, str]
) -> Iterator[dict[str, tuple[str, str]]]:
    """A pod of each kind: its namespace and its name."""
    made = [_idle("stranger", "default", images["data"])]
    made += [_idle(f"guest-{name}", name, images["data"]) for name in SERVICES]
    buckets = _idle("buckets", "minio", images["data"])
    buckets["metadata"]["labels"]["app.kubernetes.io/name"] = "buckets"
    made.append(buckets)
    cluster.apply(made)
    where = {found["metadata"]["name"]: found["metadata"]["namespace"] for found in made}
    for name, namespace in where.items():
        ready = ("wait", "--for=condition=ready", f"pod/{name}", f"--namespace={namespace}")
        cluster.kubectl(*ready, "--timeout=60s", "--request-timeout=0")
    # The second replica of MLflow asks, the first is asked.
    there = [(KUBEFLOW, "client"), *((name, name) for name in SERVICES)]
    running = {
        name: (namespace, cluster.pods(namespace, name)[-1]["metadata"]["name"])
        for namespace, name in there
    }
    yield running | {name: (namespace, name) for name, namespace in where.items()}
    for name, namespace in where.items():
        # Waited for: until they are gone, they count in the quotas that other tests look at.
        gone = ("--grace-period=1", "--timeout=60s", "--request-timeout=0")
        cluster.kubectl("delete", "pod", name, f"--namespace={namespace}", *gone)


def _idle(name: str, namespace: str, image: str) -> Object:
    made = pod(name, namespace, image, "sleep", "infinity")
    made["metadata"]["labels"] = {OURS: "true"}
    made["spec"]["terminationGracePeriodSeconds"] = 1
    return made


@pytest.mark.parametrize("source", ALLOWED)
def test_a_pod_reaches_what_it_needs_and_nothing_else(
    cluster: TestCluster,
    sources: dict[str, tuple[str, str]],
    targets: dict[str, str],
    source: str,
) -> None:
    namespace, name = sources[source]
    tried = {target: address for target, address in targets.items() if target != source}

    def reached() -> set[str]:
        command = ("bash", "-c", CONNECT, "bash", *tried.values())
        said = cluster.kubectl("exec", name, f"--namespace={namespace}", "--", *command)
        return {target for target, address in tried.items() if address in said.split()}

    # The policies of a pod hold some moments after its start.
    deadline = time.monotonic() + 30
    while (found := reached()) != ALLOWED[source] and time.monotonic() < deadline:
        time.sleep(1)
    assert found == ALLOWED[source]


def test_this_machine_reaches_the_nodes_ports(services: Services) -> None:
    for port, status in ((8080, 200), (5001, 401), (9000, 403)):
        assert requests.get(f"http://127.0.0.1:{port}", timeout=20).status_code == status


def test_the_default_storage_class_made_the_volumes(services: Services) -> None:
    for name in ("minio", "postgres"):
        claim = services.cluster.get("pvc", f"data-{name}-0", f"--namespace={name}")
        volume = services.cluster.get("pv", claim["spec"]["volumeName"])
        by = volume["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"]
        assert (claim["status"]["phase"], by) == ("Bound", "rancher.io/local-path")
