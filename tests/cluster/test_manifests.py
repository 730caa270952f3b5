"""manifests/ as the kubectl of this machine and the newest render them.

Kubeflow's own manifests cannot be fetched everywhere. Two repositories stand in for them, with the
objects that the patches change; git reaches them under the addresses of the real ones.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossfold.errors import UserError
from crossfold.infra.cluster.kubectl import Object
from crossfold.infra.cluster.manifests import BASES, render

from ..pipeline.projects import SOURCE
from .cluster import RIG_HOME

KUBEFLOW = SOURCE / "manifests" / "kubeflow"
KUBECTLS = [shutil.which("kubectl"), str(RIG_HOME / "bin" / "kubectl")]
PIPELINES, ARGO = BASES
COMPONENTS: Sequence[Sequence[str]] = [
    (),
    ("kind",),
    ("small",),
    ("kind", "small"),
    ("kind", "versitygw", "small"),
]


def deployment(name: str, *containers: Object) -> Object:
    requests = {"resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}
    spec = {"containers": [{**container, **requests} for container in containers]}
    metadata = {"name": name, "namespace": "kubeflow"}
    kind = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
    return {**kind, "spec": {"replicas": 1, "template": {"spec": spec}}}


def released() -> list[Object]:
    """Return an object for each that is patched, as far as the patches look at it."""
    kustomization = yaml.safe_load((KUBEFLOW / "kustomization.yaml").read_text())
    objects = [deployment(found["name"], {"name": "main"}) for found in kustomization["replicas"]]
    objects.append(deployment("ml-pipeline-persistenceagent", {"name": "main"}))
    ports = [{"port": 80, "protocol": "TCP", "targetPort": 3000}]
    metadata = {"name": "ml-pipeline-ui", "namespace": "kubeflow"}
    objects.append(
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports}}
    )
    for patch in kustomization["patches"]:
        text = patch.get("patch") or (KUBEFLOW / patch["path"]).read_text()
        found: Object = yaml.safe_load(text)
        name = found["metadata"]["name"]
        if found["kind"] == "Deployment":
            containers = found.get("spec", {}).get("template", {}).get("spec", {}).get("containers")
            named = [{"name": container["name"]} for container in containers or [{"name": "main"}]]
            objects.append(deployment(name, *named))
        elif found["kind"] != "Namespace":
            objects.append({key: found[key] for key in ("apiVersion", "kind", "metadata")})
    return objects


def repository(folder: Path, tag: str, folders: dict[str, list[Object]], *others: str) -> None:
    """Write a git repository of kustomizations; the first one also names other bases."""
    for name, objects in folders.items():
        path = folder / "manifests" / name
        path.mkdir(parents=True)
        (path / "objects.yaml").write_text(yaml.safe_dump_all(objects))
        resources = ["objects.yaml", *others]
        (path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": resources}))
        others = ()
    author = {
        f"GIT_{who}_{part}": "a@b" for who in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")
    }
    for command in (
        ["init", "--quiet"],
        ["add", "."],
        ["commit", "--quiet", "-mall"],
        ["tag", tag],
    ):
        subprocess.run(["git", *command], cwd=folder, env={**os.environ, **author}, check=True)


@pytest.fixture
def bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-ins' folder, which is where git finds what is on GitHub."""
    home = tmp_path / "github"
    definition = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kubeflow"}}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role"}
    first, second = (home / address.removeprefix("https://github.com/") for address in BASES)
    argo = f"{ARGO}/manifests/rbac?ref={BASES[ARGO]}"
    repository(
        first,
        BASES[PIPELINES],
        {
            "kustomize/env/platform-agnostic": released(),
            "kustomize/cluster-scoped-resources": [
                {**definition, "metadata": {"name": "workflows.argoproj.io"}},
                namespace,
            ],
        },
        argo,
    )
    repository(second, BASES[ARGO], {"rbac": [{**role, "metadata": {"name": "argo-role"}}]})
    config = tmp_path / "gitconfig"
    config.write_text(f'[url "file://{home}/"]\n    insteadOf = https://github.com/\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    return home


def with_kubectl(monkeypatch: pytest.MonkeyPatch, folder: Path, kubectl: str | None) -> None:
    assert kubectl and Path(kubectl).exists(), f"{kubectl} is missing: see CONTRIBUTING.md"
    folder.mkdir()
    (folder / "kubectl").symlink_to(kubectl)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def by_name(objects: list[Object]) -> dict[tuple[str, str], Any]:
    return {(found["kind"], found["metadata"]["name"]): found for found in objects}


@pytest.mark.parametrize("components", COMPONENTS)
def test_every_kubectl_renders_the_same(
    bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, components: Sequence[str]
) -> None:
    rendered = []
    for number, kubectl in enumerate(KUBECTLS):
        with_kubectl(monkeypatch, tmp_path / f"bin{number}", kubectl)
        rendered.append(render(components, "mirror/crossfold-mlflow:1", tmp_path / "rendered"))
    assert rendered[0] == rendered[1]
    found = by_name(rendered[0])
    assert not [name for _, name in found if "seaweedfs" in name]
    assert ("Secret", "mlpipeline-minio-artifact") not in found
    assert ("Role", "argo-role") in found and ("StatefulSet", "postgres") in found
    assert found["Deployment", "cache-server"]["spec"]["replicas"] == 0
    labels = found["Namespace", "kubeflow"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    controller = found["Deployment", "workflow-controller"]["spec"]["template"]["spec"]
    assert controller["containers"][0]["env"] == [{"name": "DEFAULT_REQUEUE_TIME", "value": "1s"}]
    assert (
        "archiveLogs"
        in found["ConfigMap", "workflow-controller-configmap"]["data"]["artifactRepository"]
    )
    assert (found["Service", "minio"]["spec"].get("type") == "NodePort") == ("kind" in components)
    assert (labels.get("crossfold/requests") == "small") == ("small" in components)
    (store,) = found["StatefulSet", "minio"]["spec"]["template"]["spec"]["containers"]
    assert ("versitygw" in store["image"]) == ("versitygw" in components)
    assert (store["resources"]["requests"]["cpu"] == "10m") == ("small" in components)
    (server,) = found["Deployment", "mlflow"]["spec"]["template"]["spec"]["containers"]
    assert server["image"] == "mirror/crossfold-mlflow:1"


def test_a_small_cluster_requests_a_tenth_of_a_core(
    bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def request(found: Object) -> int:
        (container,) = found["spec"]["template"]["spec"]["containers"]
        return int(container["resources"]["requests"]["cpu"].removesuffix("m"))

    objects = render(("kind", "small"), "crossfold-mlflow:1", tmp_path / "rendered")
    requests = {
        name: found["spec"]["replicas"] * request(found)
        for (kind, name), found in by_name(objects).items()
        if kind in ("Deployment", "StatefulSet")
    }
    assert requests["mlflow"] == 20
    assert sum(requests.values()) <= 100


def test_what_was_fetched_is_not_fetched_again(bases: Path, tmp_path: Path) -> None:
    rendered = render((), "crossfold-mlflow:1", tmp_path / "rendered")
    shutil.rmtree(bases)
    assert render((), "crossfold-mlflow:1", tmp_path / "rendered") == rendered
    with pytest.raises(UserError, match=r"git clone .* failed"):
        render((), "crossfold-mlflow:1", tmp_path / "elsewhere")
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["kustomization.yaml"]


def test_kustomize_waits_for_a_slow_line() -> None:
    resources = yaml.safe_load((KUBEFLOW / "kustomization.yaml").read_text())["resources"]
    remote = [address for address in resources if address.startswith("https://")]
    assert len(remote) == 2
    assert all(f"?timeout=300s&ref={BASES[PIPELINES]}" in address for address in remote)


def patches(folder: Path) -> list[str]:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return [
        patch.get("patch") or (folder / patch["path"]).read_text()
        for patch in kustomization.get("patches", [])
    ]


def test_a_patch_is_one_document() -> None:
    folders = [path.parent for path in (SOURCE / "manifests").rglob("kustomization.yaml")]
    found = list(chain.from_iterable(map(patches, folders)))
    assert len(found) > 15
    for patch in found:
        assert len(list(yaml.safe_load_all(patch))) == 1, patch
