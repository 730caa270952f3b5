"""A real Kubernetes for the tests, by kubectl."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.kubectl import Cluster, Object

from ..pipeline.projects import SOURCE

RIG = Path(os.environ.get("CROSSFOLD_RIG", SOURCE.parent / "shared" / "rig"))
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
        held = [
            name
            for node in self.items("nodes")
            for image in node["status"]["images"]
            for name in image.get("names") or ()  # null, of an image without a name
        ]
        if any(name == image or name.endswith(f"/{image}") for name in held):
            return
        if self.context.startswith("kind-"):
            kind = ["kind", "load", "docker-image", "--name", self.context.removeprefix("kind-")]
            subprocess.run([*kind, image], check=True, capture_output=True)
        else:
            subprocess.run([RIG / "cluster-load", image], check=True, capture_output=True)

    def has_provisioner(self) -> bool:
        """Whether the cluster makes volumes by itself."""
        default = "storageclass.kubernetes.io/is-default-class"
        return any(
            found["metadata"].get("annotations", {}).get(default) == "true"
            for found in self.items("storageclasses")
        )


@pytest.fixture(scope="session")
def cluster() -> Iterator[TestCluster]:
    """The cluster of KUBECONFIG, else the rig's. Without one these tests fail: nothing was shown.

    A kubeconfig that nobody named is not used: it may be that of a cluster with work on it.
    """
    with pytest.MonkeyPatch.context() as environment:
        if not _answers():
            if not (RIG / "cluster-up").exists():
                pytest.fail(
                    "no Kubernetes answers: set KUBECONFIG to that of a cluster for tests (and "
                    "have kubectl on the PATH), or leave tests/cluster out",
                    False,
                )
            _start_the_rigs()
            environment.setenv("KUBECONFIG", str(RIG_HOME / "kubeconfig"))
            environment.setenv("PATH", f"{RIG_HOME / 'bin'}{os.pathsep}{os.environ['PATH']}")
        context = subprocess.check_output(["kubectl", "config", "current-context"], text=True)
        with _refusing_services() if context.strip() == "rig" else contextlib.nullcontext():
            yield TestCluster(context.strip())


def _start_the_rigs() -> None:
    """Run `cluster-up`, up to five times.

    It asks by `ip addr show | grep -q` whether an address is there. Where grep ends first, ip is
    killed by SIGPIPE and the answer is no: seen 39 times in 300 on a machine that had the address.
    `cluster-up` then ends at once, with nothing broken, and may be run again.
    """
    for _ in range(5):
        done = subprocess.run([RIG / "cluster-up"], check=False)
        if done.returncode == 0:
            return
    pytest.fail(f"{RIG / 'cluster-up'} ended with status {done.returncode}, see above", False)


@contextlib.contextmanager
def _refusing_services() -> Iterator[None]:
    """Let kube-proxy refuse connections to a Service that has no pod, as it does elsewhere.

    The rig's rules for pods come before kube-proxy's, so that such a connection leaves the machine,
    and whoever is there answers it.
    """
    rule = ("FORWARD", "-m", "conntrack", "--ctstate", "NEW", "-j", "KUBE-SERVICES")
    subprocess.run(["iptables", "--wait", "-I", *rule], check=True)
    try:
        yield
    finally:
        subprocess.run(["iptables", "--wait", "-D", *rule], check=True)


def _answers() -> bool:
    if "KUBECONFIG" not in os.environ or not shutil.which("kubectl"):
        return False
    ready = ["kubectl", "get", "--raw=/readyz", "--request-timeout=10s"]
    return subprocess.run(ready, capture_output=True).returncode == 0
