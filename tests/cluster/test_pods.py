"""Which pods the namespaces take, and fetch_data's image as one of them."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crossfold.errors import UserError
from crossfold.infra.cluster.addresses import KUBEFLOW, SERVICES
from crossfold.infra.cluster.kubectl import Object
from crossfold.infra.cluster.passwords import dvc_writer
from crossfold.infra.image_tags import DATA

from ..docker.services import wait
from ..docker.test_images import FETCH
from ..pipeline.projects import write_project
from .cluster import TestCluster
from .services import Services

RESTRICTED: Object = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
RESOURCES = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}


def pod(name: str, namespace: str, image: str, *command: str, **container: Any) -> Object:
    """Return a pod that Pod Security `restricted` takes, with nothing to write to but /tmp."""
    main = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
        "securityContext": copy.deepcopy(RESTRICTED),
        "resources": copy.deepcopy(RESOURCES),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        **container,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [main],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }


@pytest.fixture
def run(services: Services, cluster: TestCluster) -> Iterator[Callable[[Object], str]]:
    """Run pods to their end, and return what they said."""
    names = []

    def to_its_end(wanted: Object) -> str:
        name = wanted["metadata"]["name"]
        names.append(name)
        cluster.apply([wanted])

        def phase() -> str:
            found = cluster.get("pod", name, f"--namespace={KUBEFLOW}")
            return str(found["status"]["phase"])

        wait(lambda: phase() in ("Succeeded", "Failed"), 180)
        log = cluster.kubectl("logs", name, f"--namespace={KUBEFLOW}")
        assert phase() == "Succeeded", log
        return log

    yield to_its_end
    for name in names:
        cluster.kubectl("delete", "pod", name, f"--namespace={KUBEFLOW}", "--wait=false")


# What a namespace takes


VIOLATIONS: dict[str, Object] = {
    "runAsNonRoot != true": {"runAsNonRoot": False},
    "runAsUser=0": {"runAsUser": 0},
    "allowPrivilegeEscalation != false": {"allowPrivilegeEscalation": True},
    "unrestricted capabilities": {"capabilities": {}},
    "privileged": {"privileged": True, "allowPrivilegeEscalation": True},
    "seccompProfile": {"seccompProfile": {"type": "Unconfined"}},
}


@pytest.mark.parametrize("namespace", SERVICES)
def test_a_pod_that_is_not_restricted_is_refused(
    services: Services, cluster: TestCluster, namespace: str
) -> None:
    taken = pod("guest", namespace, "any", "true")
    dry = ("create", "--dry-run=server", "--filename=-")
    assert "guest created" in cluster.kubectl(*dry, given=json.dumps(taken))
    for said, change in VIOLATIONS.items():
        refused = copy.deepcopy(taken)
        refused["spec"]["containers"][0]["securityContext"] |= change
        with pytest.raises(UserError, match=f'violates PodSecurity "restricted:latest".*{said}'):
            cluster.kubectl(*dry, given=json.dumps(refused))
    refused = copy.deepcopy(taken)
    refused["spec"]["volumes"].append({"name": "node", "hostPath": {"path": "/"}})
    with pytest.raises(UserError, match=r'PodSecurity "restricted:latest".*hostPath'):
        cluster.kubectl(*dry, given=json.dumps(refused))


@pytest.mark.parametrize("namespace", SERVICES)
def test_a_pod_beyond_the_quota_is_refused(
    services: Services, cluster: TestCluster, namespace: str
) -> None:
    dry = ("create", "--dry-run=server", "--filename=-")
    large = pod("guest", namespace, "any", "true")
    large["spec"]["containers"][0]["resources"]["limits"]["memory"] = "64Gi"
    with pytest.raises(UserError, match=r"exceeded quota.*limits\.memory"):
        cluster.kubectl(*dry, given=json.dumps(large))
    unlimited = pod("guest", namespace, "any", "true", resources={})
    with pytest.raises(UserError, match=r"must specify limits\.cpu"):
        cluster.kubectl(*dry, given=json.dumps(unlimited))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_an_ordinary_user_who_writes_to_its_volumes_only(
    services: Services, cluster: TestCluster, name: str
) -> None:
    workload = f"{'deployment' if name == 'mlflow' else 'statefulset'}/{name}"
    run = ("exec", workload, f"--namespace={name}", "--", "sh", "-c")
    script = "id -u; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; touch /x 2>&1; true"
    uid, *facts, refused = cluster.kubectl(*run, script).splitlines()
    assert uid == {"minio": "1000", "postgres": "999", "mlflow": "65532"}[name]
    assert [fact.split() for fact in facts] == [
        ["CapEff:", "0000000000000000"],
        ["NoNewPrivs:", "1"],
        ["Seccomp:", "2"],
    ]
    assert "Read-only file system" in refused
    script = "ls /var/run/secrets/kubernetes.io 2>&1; env | grep -c _SERVICE_HOST; true"
    token, num_services = cluster.kubectl(*run, script).splitlines()
    assert "No such file" in token
    assert num_services == "1"  # Kubernetes' own


# A step's image


def test_data_are_fetched_from_the_object_store_and_logged_to_mlflow(
    images: dict[str, str],
    services: Services,
    run: Callable[[Object], str],
    tmp_path: Path,
) -> None:
    project = write_project(tmp_path / "project")
    pushed = dvc_writer(services.cluster)
    assert pushed
    with services.forwarded("minio", 9000) as address, project.exported(pushed):
        project.call("dvc", "remote", "modify", "minio", "endpointurl", address)
        project.call("dvc", "push", "--quiet", "--remote", "minio")
    pointers = {name: (project.root / f"{name}.dvc").read_text() for name in ("data", "models")}
    logs = (
        "import mlflow; mlflow.set_experiment('data'); mlflow.log_metric('n', fetched.num_images)"
    )
    wanted = pod(
        "fetch-data",
        KUBEFLOW,
        images[DATA],
        "python3",
        "-c",
        f"import os; os.chdir('/tmp')\n{FETCH}\n{logs}",
        env=[{"name": "POINTERS", "value": json.dumps(pointers)}],
        envFrom=[
            {"secretRef": {"name": "crossfold-dvc-remote"}},
            {"secretRef": {"name": "crossfold-mlflow"}},
        ],
    )
    assert "200 10 10" in run(wanted).splitlines()
    assert services.psql("SELECT value FROM metrics WHERE key = 'n'") == ["200"]
