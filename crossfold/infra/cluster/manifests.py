"""Render manifests/ with kustomize; fetch Kubeflow's own manifests only once."""

import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from crossfold.infra import shell
from crossfold.infra.image_tags import ROOT

from .kubectl import Object

RENDERED = Path("runs", "cluster")
# Remote bases: manifests/kubeflow builds on the first, and the first on the second.
BASES = {
    "https://github.com/kubeflow/pipelines": "2.17.0",
    "https://github.com/argoproj/argo-workflows": "v4.0.5",
}


def render(components: Sequence[str], mlflow_image: str, folder: Path) -> list[Object]:
    """Render manifests/cluster together with the given components of manifests/.

    Args:
        components: Folder names under manifests/, such as `kind`.
        mlflow_image: The image of MLflow's server, with its tag.
        folder: Where to write the kustomization and keep clones of the remote bases.

    Raises:
        UserError: a base cannot be fetched, or kustomize rejects the manifests.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifests = Path(os.path.relpath(ROOT / "manifests", folder))
    name, tag = mlflow_image.rsplit(":", 1)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [str(manifests / "cluster")],
        "components": [str(manifests / component) for component in components],
        "images": [{"name": "crossfold-mlflow", "newName": name, "newTag": tag}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization, sort_keys=False))
    rendered = shell.output("kubectl", "kustomize", str(folder), variables=_local_bases(folder))
    return list(yaml.safe_load_all(rendered))


def _local_bases(folder: Path) -> dict[str, str]:
    """Clone the remote bases, and build the variables that point git to the clones.

    Kustomize caches nothing: it fetches a base again for each of its folders, five times in all.
    Two of the fetches that Kubeflow's manifests ask for time out after 27 s.
    """
    variables = {"GIT_CONFIG_COUNT": str(len(BASES))}
    for number, (address, ref) in enumerate(BASES.items()):
        clone = folder.absolute() / f"{address.rsplit('/', 1)[1]}-{ref}"
        _clone(address, ref, clone.with_name(f"{clone.name}.git"))
        # Without .git: git tries this suffix itself, and some releases of kustomize append it.
        variables[f"GIT_CONFIG_KEY_{number}"] = f"url.file://{clone}.insteadOf"
        variables[f"GIT_CONFIG_VALUE_{number}"] = address
    return variables


def _clone(address: str, ref: str, clone: Path) -> None:
    if clone.exists():
        return
    part = clone.with_name(f"{clone.name}.{os.getpid()}")
    options = ("--bare", "--depth=1", f"--branch={ref}")
    shell.run_visibly("git", "clone", *options, address, str(part))
    part.rename(clone)
