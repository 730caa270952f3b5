"""Facts that manifests/, kind-cluster.yaml and the code must agree on."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from crossfold.infra.cluster import checks
from crossfold.infra.cluster.addresses import MINIO_URI, MLFLOW_URI, PORTS
from crossfold.infra.cluster.kind import KIND_CLUSTER
from crossfold.infra.cluster.passwords import EXPERIMENT

PROJECT = Path(__file__).parents[4]
MANIFESTS = PROJECT / "manifests"
KUBEFLOW = MANIFESTS / "kubeflow"
KIND: dict[str, Any] = yaml.safe_load((PROJECT / "kind-cluster.yaml").read_text())
CONFIG: dict[str, Any] = json.loads((KUBEFLOW / "config.json").read_text())


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


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
    default = yaml.safe_load(launcher["providers"])["minio"]["default"]
    assert default["endpoint"] == host
    (logs,) = documents(KUBEFLOW / "workflow-defaults.yaml")
    repository = yaml.safe_load(logs["data"]["artifactRepository"])["s3"]
    assert repository["endpoint"] == host
    (server,) = documents(KUBEFLOW / "api-server.yaml")
    (container,) = server["spec"]["template"]["spec"]["containers"]
    values = {variable["name"]: variable["value"] for variable in container["env"]}
    address = (values["OBJECTSTORECONFIG_HOST"], values["OBJECTSTORECONFIG_PORT"])
    assert ":".join(address) == host
    # versitygw refuses requests that are signed for another region.
    regions = {default["region"], repository["region"], values["OBJECTSTORECONFIG_REGION"]}
    assert regions == {"us-east-1"}

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


def test_one_release_of_kind_is_meant_everywhere() -> None:
    for name in ("kind-cluster.yaml", ".github/workflows/cluster.yml", "docs/cluster.md"):
        found = set(re.findall(r"v0\.\d+(?:\.\d+)?\b", (PROJECT / name).read_text()))
        assert found <= {"v0.33", "v0.33.0"} and found, name
    assert checks.KIND == (0, 33)
