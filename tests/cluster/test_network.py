"""Who may talk to whom, as the NetworkPolicies say it.

Not every cluster enforces them, the rig does not. So they are read here by Kubernetes' rules, for
the pods that the manifests make: a selector that misses its pod would be an outage elsewhere.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest

from pipelines.cluster import KUBEFLOW, SERVICES
from pipelines.kubectl import Object

from .services import Services

ALLOWED = {
    ("mlflow", "postgres"),
    ("mlflow", "minio"),
    ("buckets", "minio"),
    ("step", "minio"),
    ("step", "mlflow"),
    ("stranger", "mlflow"),  # by whom people reach the pages is for a cluster to say
}


@dataclass(frozen=True)
class Pod:
    name: str
    namespace: str
    labels: Object
    ports: dict[str, int]


@pytest.fixture(scope="module")
def objects(services: Services) -> list[Object]:
    return services.objects()


@pytest.fixture(scope="module")
def pods(objects: list[Object]) -> dict[str, Pod]:
    """What the manifests make, a step, and a pod that has nothing to do with us."""
    found = [Pod("step", KUBEFLOW, {}, {}), Pod("stranger", "default", {}, {})]
    for made in objects:
        if template := made.get("spec", {}).get("template"):
            metadata = made["metadata"]
            (container,) = template["spec"]["containers"]
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            labels = template["metadata"]["labels"]
            found.append(Pod(metadata["name"], metadata["namespace"], labels, ports))
    return {pod.name: pod for pod in found}


def selects(selector: Object, labels: Object) -> bool:
    if not all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True


def is_peer(peer: Object, pod: Pod, namespace: str) -> bool:
    assert set(peer) <= {"namespaceSelector", "podSelector"}
    home = {"kubernetes.io/metadata.name": pod.namespace}
    if "namespaceSelector" in peer:
        near = selects(peer["namespaceSelector"], home)
    else:
        near = pod.namespace == namespace
    return near and selects(peer.get("podSelector", {}), pod.labels)


def passes(objects: list[Object], way: str, pod: Pod, other: Pod, port: int, named: Pod) -> bool:
    """Whether the policies for a pod let it talk, or be talked to (Egress, Ingress)."""
    policies = [
        found["spec"]
        for found in objects
        if found["kind"] == "NetworkPolicy"
        and found["metadata"]["namespace"] == pod.namespace
        and way in found["spec"]["policyTypes"]
        and selects(found["spec"]["podSelector"], pod.labels)
    ]
    rules = [rule for policy in policies for rule in policy.get(way.lower(), [])]
    to_or_from = "from" if way == "Ingress" else "to"

    def is_port(wanted: Any) -> bool:
        return bool(named.ports.get(wanted, wanted) == port)

    return not policies or any(
        any(is_port(entry["port"]) for entry in rule["ports"])
        and (
            to_or_from not in rule
            or any(is_peer(peer, other, pod.namespace) for peer in rule[to_or_from])
        )
        for rule in rules
    )


def test_each_talks_to_what_it_needs_and_to_nothing_else(
    objects: list[Object], pods: dict[str, Pod]
) -> None:
    reached = set()
    for source, target in product(pods.values(), (pods[name] for name in SERVICES)):
        (port,) = target.ports.values()
        leaves = passes(objects, "Egress", source, target, port, target)
        enters = passes(objects, "Ingress", target, source, port, target)
        if leaves and enters and source != target:
            reached.add((source.name, target.name))
    assert reached == ALLOWED


def test_whoever_asks_for_a_name_reaches_the_clusters_dns(
    objects: list[Object], pods: dict[str, Pod]
) -> None:
    dns = Pod("dns", "kube-system", {"k8s-app": "kube-dns"}, {})
    asking = {name for name, pod in pods.items() if passes(objects, "Egress", pod, dns, 53, dns)}
    assert asking == {"mlflow", "buckets", "step", "stranger"}


def test_nothing_of_ours_reaches_the_world(objects: list[Object], pods: dict[str, Pod]) -> None:
    ports = {"https": 443, "postgres": 5432, "s3": 9000}
    world = Pod("world", "default", {}, ports)
    for pod in pods.values():
        if pod.namespace in SERVICES:
            for port in ports.values():
                assert not passes(objects, "Egress", pod, world, port, world)


def test_a_namespace_lets_nothing_pass_that_no_policy_names(objects: list[Object]) -> None:
    for namespace in SERVICES:
        guest = Pod("guest", namespace, {}, {})
        outside = Pod("outside", "default", {}, {})
        for way in ("Ingress", "Egress"):
            assert not passes(objects, way, guest, outside, 80, outside)
