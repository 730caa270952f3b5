"""Find a version in a local store without MLflow, whose import takes seconds, if nothing changed.

MLflow alone decides which version a name means. Its last answer holds as long as the store's file
is the same to the last transaction, and is asked for again otherwise.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlparse
from urllib.request import url2pathname

from crossfold.evaluation.prediction_sets.reference import Reference
from crossfold.network import GRAPH_FILE, SETS_FILE
from crossfold.records import Record
from crossfold.tracking.sqlite_store import SQLITE, state

from .file_hashes import ARTIFACTS, registered_hashes, verify_file
from .model import open_network, without_sets
from .signatures import verify_signature

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

    from crossfold.network.openvino_engine import Classifier

_FOLDER = Path("runs", "cache", "versions")


class KnownVersion(Record):
    """A version of a store in this `state`, and its network's file with the registered hash.

    `sets_sha256` is the hash of the file for prediction sets beside it; None if there is none.
    """

    state: str
    name: str
    version: str
    graph: str
    sha256: str
    sets_sha256: str | None

    @property
    def sets(self) -> Path:
        """The path of the file for prediction sets."""
        return Path(self.graph).with_name(SETS_FILE)

    @property
    def has_files(self) -> bool:
        """Whether all files are there."""
        return Path(self.graph).exists() and (self.sets_sha256 is None or self.sets.exists())


class Lookup(NamedTuple):
    """A name that is looked up in a store, and the store's state before."""

    store: Path
    state: str
    entry: Path


def begin(root: Path, name: str) -> Lookup | None:
    """Note the state of the store at MLFLOW_TRACKING_URI before a name is looked up in it.

    None if the store is a server, or its state cannot be told. `root` is the project's folder.
    """
    uri = os.environ["MLFLOW_TRACKING_URI"]
    store = Path(uri.removeprefix(SQLITE)).resolve()
    before = state(store) if uri.startswith(SQLITE) else None
    if before is None:
        return None
    digest = hashlib.sha256(json.dumps([str(store), name]).encode()).hexdigest()
    return Lookup(store, before, root / _FOLDER / f"{digest}.json")


def recall(lookup: Lookup) -> KnownVersion | None:
    """Read MLflow's last answer; None if the store or the version's file has changed since."""
    known = KnownVersion.recall(lookup.entry)
    return known if known and known.state == lookup.state and known.has_files else None


def load(known: KnownVersion) -> "Classifier":
    """Load a version's network.

    Raises:
        UserError: its file was modified, or the engine cannot compute it on this machine.
    """
    graph = Path(known.graph)
    verify_file(graph, known.sha256, f"{known.name} version {known.version}")
    return open_network(graph)


def verify(known: KnownVersion, public_key: str) -> None:
    """Check that a version's files have a valid signature of a key, given as PEM.

    Raises:
        UserError: the signature is missing, or isn't valid.
    """
    verify_signature(Path(known.graph).parents[1], known.name, known.version, public_key)


def load_reference(known: KnownVersion) -> Reference:
    """Load what a version's prediction sets are told from.

    Raises:
        UserError: the version has no such file, or it was modified.
    """
    if known.sets_sha256 is None:
        raise without_sets(known.name, known.version)
    verify_file(known.sets, known.sets_sha256, f"{known.name} version {known.version}")
    return Reference.read(known.sets)


def remember(lookup: Lookup, client: "MlflowClient", version: "ModelVersion") -> None:
    """Write MLflow's answer, if the version's file is on this machine and its hash is known."""
    hashes = registered_hashes(version.tags)
    folder = urlparse(client.get_model_version_download_uri(version.name, version.version))
    graph = Path(url2pathname(folder.path)) / ARTIFACTS / GRAPH_FILE
    if not hashes or folder.scheme != "file" or not graph.exists():
        return
    if state(lookup.store) != lookup.state:  # it changed meanwhile: before the answer, or after it
        return
    known = KnownVersion(
        state=lookup.state,
        name=version.name,
        version=str(version.version),
        graph=str(graph),
        sha256=hashes[f"{ARTIFACTS}/{GRAPH_FILE}"],
        sets_sha256=hashes.get(f"{ARTIFACTS}/{SETS_FILE}"),
    )
    known.remember(lookup.entry)
