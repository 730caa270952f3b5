"""The cluster command where there is no cluster, and what must agree between its files."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossfold.errors import UserError
from crossfold.infra.cluster import checks as cluster_checks
from crossfold.infra.cluster.addresses import MINIO_URI, MLFLOW_URI, PORTS
from crossfold.infra.cluster.checks import check_kubectl, check_machine
from crossfold.infra.cluster.image_delivery import load_image
from crossfold.infra.cluster.kind import KIND_CLUSTER, start_kind_cluster
from crossfold.infra.cluster.kubectl import trouble
from crossfold.infra.cluster.passwords import EXPERIMENT
from crossfold.infra.cluster.readiness import is_ready

PROJECT = Path(__file__).parents[3]
MANIFESTS = PROJECT / "manifests"
KUBEFLOW = MANIFESTS / "kubeflow"
KIND: dict[str, Any] = yaml.safe_load((PROJECT / "kind-cluster.yaml").read_text())
CONFIG: dict[str, Any] = json.loads((KUBEFLOW / "config.json").read_text())


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def command(*arguments: str, path: Path) -> "subprocess.CompletedProcess[str]":
    """Run `crossfold cluster` with no other programs than those of a folder."""
    program = f"import sys; sys.argv[1:] = {['cluster', *arguments]}; "
    program += "from crossfold.cli.main import main; main()"
    environment = {**os.environ, "PATH": str(path)}
    call = [sys.executable, "-c", program]
    return subprocess.run(call, env=environment, capture_output=True, text=True, cwd=PROJECT)


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nothing is wrong."""
    script = f"case $3 in *NCPU*) echo 4;; *MemTotal*) echo 16000000000;; *) echo {tmp_path};; esac"
    program(tmp_path, "docker", script)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in cluster_checks.INOTIFY:
        (tmp_path / name).write_text("1000000")
    monkeypatch.setattr(cluster_checks, "PROC", tmp_path)
    monkeypatch.setattr(cluster_checks, "DISK", 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    monkeypatch.setattr(cluster_checks, "PORTS", {free: "MLflow"})
    return tmp_path


# Programs that are missing or too old


@pytest.mark.parametrize("name", ["up", "status"])
def test_without_kubectl_it_says_where_to_get_it(name: str, tmp_path: Path) -> None:
    done = command(name, path=tmp_path)
    assert done.returncode == 2
    assert "there is no `kubectl` command: install it (https://kubernetes.io" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_docker_there_is_no_kind_cluster(tmp_path: Path) -> None:
    done = command("down", path=tmp_path)
    assert done.returncode == 2
    assert "there is no `docker` command" in done.stderr


def test_an_engine_that_does_not_answer(tmp_path: Path) -> None:
    program(tmp_path, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    done = command("down", path=tmp_path)
    assert done.returncode == 2
    assert "the Docker engine does not answer: Cannot connect to the Docker daemon" in done.stderr


def test_without_kind_it_says_where_to_get_it(tmp_path: Path) -> None:
    program(tmp_path, "docker", "exit 0")
    assert "there is no `kind` command: install it (https://kind" in (
        command("down", path=tmp_path).stderr
    )


def test_a_kind_that_is_too_old_for_the_node_image(tmp_path: Path) -> None:
    program(tmp_path, "docker", "exit 0")
    program(tmp_path, "kind", "echo kind v0.29.0 go1.24.2 linux/amd64")
    done = command("down", path=tmp_path)
    assert done.returncode == 2
    assert "needs kind v0.33 or later" in done.stderr


def test_before_the_first_up_there_is_nothing_to_stop(tmp_path: Path) -> None:
    program(tmp_path, "docker", "exit 0")
    program(tmp_path, "kind", "[ $1 = get ] || echo kind v0.33.0 go1.26.0 linux/amd64")
    done = command("down", path=tmp_path)
    assert done.returncode == 2
    assert "there is no cluster yet: make cluster-up" in done.stderr


def test_a_cluster_of_somebody_else_is_never_stopped(tmp_path: Path) -> None:
    done = command("down", "--context", "production", path=tmp_path)
    assert done.returncode == 2
    assert "only the kind cluster can be stopped" in done.stderr


def test_a_kubectl_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "kubectl", """echo '{"clientVersion": {"gitVersion": "v1.24.17"}}'""")
    program(tmp_path, "git", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"kubectl is v1\.24\.17, and 1\.27 or later is needed"):
        check_kubectl()


def test_the_node_image_is_that_of_a_mirror(machine: Path) -> None:
    called = machine / "called"
    script = f"case $1 in version) echo kind v0.33.0;; create) echo $@ > {called}; exit 1;; esac"
    program(machine, "kind", script)
    with pytest.raises(UserError, match="kind create cluster"):
        start_kind_cluster(print, "mirror/node:v1")
    assert "--image=mirror/node:v1" in called.read_text().split()


def test_loading_an_image_says_its_size(machine: Path) -> None:
    program(machine, "docker", "echo 5512345678")
    program(machine, "kind", "[ $1 = load ]")
    lines: list[str] = []
    load_image("crossfold", "crossfold-train:1", lines.append)
    assert lines[0] == "loading crossfold-train:1, 5.5 GB"
    assert len(lines) == 2


# A machine that cannot hold a cluster


def test_a_machine_on_which_nothing_is_wrong(machine: Path) -> None:
    check_machine()


def test_all_that_is_wrong_is_said_at_once(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"case $3 in *NCPU*) echo 1;; *MemTotal*) echo 4000000000;; *) echo {machine};; esac"
    program(machine, "docker", script)
    (machine / "max_user_instances").write_text("128")
    monkeypatch.setattr(cluster_checks, "DISK", shutil.disk_usage(machine).total * 2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(cluster_checks, "PORTS", {port: "MLflow"})
        with pytest.raises(UserError) as refused:
            check_machine()
    message = str(refused.value)
    assert "Docker has 1 processor cores, and 2 are needed" in message
    assert "Docker has 4.0 GB of memory, and 8 GB are needed" in message
    assert re.search(rf"{machine} has [\d.]+ GB free", message)
    assert "sudo sysctl fs.inotify.max_user_instances=512\n" in message
    assert f"port {port}, for MLflow, is in use by another program" in message


# What is ready, and why something is not


def deployment(**status: int) -> dict[str, Any]:
    metadata = {"name": "mlflow", "generation": 2}
    return {
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {"replicas": 2},
        "status": {"observedGeneration": 2, **status},
    }


READY = {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}


@pytest.mark.parametrize(
    ("status", "ready"),
    [
        ({}, False),
        (READY, True),
        (READY | {"observedGeneration": 1}, False),  # the change was not seen yet
        (READY | {"updatedReplicas": 1}, False),
        (READY | {"replicas": 3}, False),  # an old one is still there
        (READY | {"availableReplicas": 1}, False),
    ],
)
def test_a_workload_is_ready_when_the_new_one_is(status: dict[str, int], ready: bool) -> None:
    assert is_ready(deployment(**status)) is ready


def test_what_is_switched_offis_ready() -> None:
    found = deployment()
    found["spec"]["replicas"] = 0
    assert is_ready(found)


@pytest.mark.parametrize("state", [{}, {"active": 1}, {"failed": 1}])
def test_a_job_is_ready_when_it_succeeded(state: dict[str, int]) -> None:
    assert not is_ready({"kind": "Job", "status": state})
    assert is_ready({"kind": "Job", "status": {**state, "succeeded": 1}})


def test_why_a_pod_does_not_run() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    container = {"state": waiting}
    pulling = {"status": {"phase": "Pending", "containerStatuses": [container]}}
    assert trouble(pulling) == "ImagePullBackOff: not found"
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    unplaced = {"phase": "Pending", "conditions": [{**condition, "message": "Insufficient cpu"}]}
    assert trouble({"status": unplaced}) == "Unschedulable: Insufficient cpu"
    probe = {"type": "Ready", "status": "False", "reason": "ContainersNotReady"}
    assert trouble({"status": {"phase": "Running", "conditions": [probe]}}) == "ContainersNotReady"
    assert trouble({"status": {"phase": "Running"}}) == ""
    assert trouble({"status": {"phase": "Succeeded"}}) == ""


# What must agree


def test_kind_maps_the_pages_to_loopback_only() -> None:
    assert KIND["name"] == KIND_CLUSTER
    (node,) = KIND["nodes"]
    mapped = node["extraPortMappings"]
    assert {port["listenAddress"] for port in mapped} == {"127.0.0.1"}
    assert {port["hostPort"] for port in mapped} == set(PORTS)
    names = ("kubeflow", "minio", "mlflow")
    services = [documents(MANIFESTS / "kind" / f"{name}.yaml")[0] for name in names]
    served = {service["spec"]["ports"][0]["nodePort"] for service in services}
    assert {port["containerPort"] for port in mapped} == served


def test_the_node_image_is_pinned() -> None:
    (node,) = KIND["nodes"]
    assert re.fullmatch(r"kindest/node:v1\.\d+\.\d+@sha256:[0-9a-f]{64}", node["image"])


def test_no_pod_comes_through_the_nodes_ports() -> None:
    for policy in documents(MANIFESTS / "kind" / "network.yaml"):
        (rule,) = policy["spec"]["ingress"]
        assert rule["from"][0]["ipBlock"]["except"] == [KIND["networking"]["podSubnet"]]


def test_every_file_of_the_patches_is_used() -> None:
    kustomization = yaml.safe_load((KUBEFLOW / "kustomization.yaml").read_text())
    named = {patch["path"] for patch in kustomization["patches"] if "path" in patch}
    named |= {name for name in kustomization["resources"] if not name.startswith("https://")}
    named |= {"config.json", "kustomization.yaml"}
    assert {path.name for path in KUBEFLOW.iterdir() if path.is_file()} == named


def test_the_plugin_logs_where_the_steps_would() -> None:
    plugin = CONFIG["plugins"]["mlflow"]
    assert plugin["endpoint"] == MLFLOW_URI
    assert plugin["settings"]["defaultExperimentName"] == EXPERIMENT
    assert plugin["settings"]["credentialSecretRef"] == {
        "usernameKey": "username",
        "passwordKey": "password",
    }
    kubeflow, mlflow, _ = PORTS
    assert plugin["settings"]["kfpBaseURL"] == f"http://localhost:{kubeflow}"
    assert plugin["settings"]["mlflowBaseURL"] == f"http://localhost:{mlflow}"


def test_steps_run_as_our_service_account() -> None:
    account, role, _ = documents(KUBEFLOW / "steps.yaml")
    assert account["metadata"]["name"] == CONFIG["DEFAULTPIPELINERUNNERSERVICEACCOUNT"]
    rights = {
        (rule["resources"][0], *rule.get("resourceNames", ["*"]), *rule["verbs"])
        for rule in role["rules"]
    }
    assert rights == {
        ("configmaps", "kfp-launcher", "get"),
        ("secrets", "mlpipeline-minio-artifact", "get"),
        ("workflowtaskresults", "*", "create", "patch"),
    }


def test_the_object_store_is_the_same_in_all_places() -> None:
    host = MINIO_URI.removeprefix("http://")
    launcher = documents(KUBEFLOW / "launcher.yaml")[0]["data"]
    assert yaml.safe_load(launcher["providers"])["minio"]["default"]["endpoint"] == host
    (logs,) = documents(KUBEFLOW / "workflow-defaults.yaml")
    repository = yaml.safe_load(logs["data"]["artifactRepository"])["s3"]
    assert repository["endpoint"] == host
    (server,) = documents(KUBEFLOW / "api-server.yaml")
    (container,) = server["spec"]["template"]["spec"]["containers"]
    values = {variable["name"]: variable["value"] for variable in container["env"]}
    address = (values["OBJECTSTORECONFIG_HOST"], values["OBJECTSTORECONFIG_PORT"])
    assert ":".join(address) == host

    install = documents(KUBEFLOW / "install-config.yaml")[0]["data"]
    assert launcher["defaultPipelineRoot"] == install["defaultPipelineRoot"]
    assert install["defaultPipelineRoot"].startswith(f"minio://{install['bucketName']}/")
    assert repository["bucket"] == install["bucketName"]
    (job,) = documents(MANIFESTS / "minio" / "buckets.yaml")
    made = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert install["bucketName"] in made


def test_the_pages_look_for_logs_where_they_are() -> None:
    (pages,) = documents(KUBEFLOW / "ui.yaml")
    (container,) = pages["spec"]["template"]["spec"]["containers"]
    values = {variable["name"]: variable.get("value") for variable in container["env"]}
    logs = documents(KUBEFLOW / "workflow-defaults.yaml")[0]["data"]["artifactRepository"]
    repository = yaml.safe_load(logs)["s3"]
    assert values["ARGO_KEYFORMAT"] == repository["keyFormat"]
    assert values["ARGO_ARCHIVE_BUCKETNAME"] == repository["bucket"]
    assert MINIO_URI.startswith(f"http://{values['MINIO_HOST']}.{values['MINIO_NAMESPACE']}.")


# The workflow of GitHub Actions


WORKFLOWS = PROJECT / ".github" / "workflows"
WORKFLOW = (WORKFLOWS / "cluster.yml").read_text()


def test_the_workflow_uses_the_same_actions_as_the_other() -> None:
    pin = re.compile(r"uses: (\S+@[0-9a-f]{40} # v\d+\.\d+\.\d+)$", re.MULTILINE)
    others = set(pin.findall((WORKFLOWS / "ci.yml").read_text()))
    used = pin.findall(WORKFLOW)
    assert len(used) == WORKFLOW.count("uses:") > 0
    assert set(used) <= others


def test_the_workflow_calls_targets_that_the_makefile_has() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    called = set(re.findall(r"run: make ([a-z-]+)", WORKFLOW))
    assert {"cluster-up", "pipeline-run", "cluster-status", "cluster-down"} <= called <= targets


def test_the_workflow_may_only_read() -> None:
    workflow: dict[Any, Any] = yaml.safe_load(WORKFLOW)
    assert workflow["permissions"] == {"contents": "read"}
    assert set(workflow[True]) == {"push", "pull_request"}  # what YAML 1.1 makes of the key `on`
    assert "secrets." not in WORKFLOW
    assert not any("permissions" in job for job in workflow["jobs"].values())


def test_one_release_of_kind_is_meant_everywhere() -> None:
    for name in ("kind-cluster.yaml", ".github/workflows/cluster.yml", "docs/cluster.md"):
        found = set(re.findall(r"v0\.\d+(?:\.\d+)?\b", (PROJECT / name).read_text()))
        assert found <= {"v0.33", "v0.33.0"} and found, name
    assert cluster_checks.KIND == (0, 33)
