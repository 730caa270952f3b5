import json
from pathlib import Path

import pytest
import yaml

from crossfold.errors import UserError
from crossfold.infra.cluster.kubectl import Cluster
from crossfold.infra.cluster.object_store import LABEL, choose_store
from crossfold.infra.object_store import ObjectStore

from .machines import PROJECT, write_program

MINIO, VERSITYGW = ObjectStore


def cluster_with(
    labels: dict[str, str] | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Cluster:
    """Return a cluster whose namespace `minio` has these labels; None: it has none."""
    namespace = "" if labels is None else json.dumps({"metadata": {"labels": labels}})
    write_program(folder, "kubectl", f"echo '{namespace}'" if namespace else "exit 0")
    monkeypatch.setenv("PATH", str(folder))
    return Cluster("team")


def label() -> dict[str, str]:
    patch = yaml.safe_load((PROJECT / "manifests/versitygw/namespace.yaml").read_text())
    found: dict[str, str] = patch["metadata"]["labels"]
    return found


@pytest.mark.parametrize(
    ("labels", "wanted", "chosen"),
    [
        (None, None, MINIO),
        (None, VERSITYGW, VERSITYGW),
        ({}, None, MINIO),
        ({}, MINIO, MINIO),
        (label(), None, VERSITYGW),
        (label(), VERSITYGW, VERSITYGW),
    ],
)
def test_a_cluster_keeps_its_object_store(
    labels: dict[str, str] | None,
    wanted: ObjectStore | None,
    chosen: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert LABEL in label()
    assert choose_store(cluster_with(labels, tmp_path, monkeypatch), wanted) is chosen


@pytest.mark.parametrize(("labels", "wanted"), [({}, VERSITYGW), (label(), MINIO)])
def test_another_object_store_is_refused(
    labels: dict[str, str], wanted: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=f"--object-store {wanted}"):
        choose_store(cluster_with(labels, tmp_path, monkeypatch), wanted)
