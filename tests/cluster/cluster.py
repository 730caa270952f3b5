"""The kind cluster of kind-cluster.yaml for the tests, by kubectl."""

import os
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from crossfold.infra.cluster.image_delivery import load_image
from crossfold.infra.cluster.kind import KIND_CLUSTER, start_kind_cluster
from crossfold.infra.cluster.kubectl import Cluster, Object

RIG_HOME = Path(os.environ.get("RIG_HOME", "/var/lib/rig"))


class TestCluster(Cluster):
    """The cluster of these tests."""

    __test__ = False

    def pods(self, namespace: str, name: str) -> list[Object]:
        """Return the pods of a workload that are not being deleted."""
        selector = f"--selector=app.kubernetes.io/name={name}"
        found = self.items("pods", f"--namespace={namespace}", selector)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def load(self, image: str) -> None:
        """Copy an image of the Docker engine into the cluster, unless it is there."""
        load_image(KIND_CLUSTER, image, print)


@pytest.fixture(scope="session")
def cluster(engine: docker.DockerClient) -> Iterator[TestCluster]:
    """The cluster as `crossfold cluster up` starts it, and creates it if there is none.

    The machine's own kubectl comes first; kind may be the rig's.
    """
    with pytest.MonkeyPatch.context() as environment:
        path = f"{os.environ['PATH']}{os.pathsep}{RIG_HOME / 'bin'}"
        environment.setenv("PATH", path)
        # Set, so that a test can put another kubeconfig before it.
        default = str(Path.home() / ".kube" / "config")
        environment.setenv("KUBECONFIG", os.environ.get("KUBECONFIG") or default)
        yield TestCluster(start_kind_cluster(print).context)
