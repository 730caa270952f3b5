"""Sign registered versions, and let the gate pass only signed ones if the settings ask for it."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient

from crossfold.predict import signatures
from crossfold.predict.file_hashes import SIGNATURES
from crossfold.predict.signatures import Signature, UnverifiedError

from .gate import Decision


class Signed(NamedTuple):
    """A version's valid signature, and whether the version had it before."""

    signature: Signature
    already: bool


def sign_version(client: MlflowClient, version: ModelVersion, private: Path) -> Signed:
    """Sign a version, and store the signature beside its files, unless it has a valid one.

    Signatures of other keys stay.

    Raises:
        UserError: the key cannot be used, or the version's files differ from those registered.
    """
    name, number, key = version.name, str(version.version), signatures.public_key_of(private)
    with tempfile.TemporaryDirectory() as parent:
        folder = signatures.download_folder(version, parent)
        try:
            return Signed(signatures.verify_signature(folder, name, number, key), already=True)
        except UnverifiedError:  # none of this key, or a damaged one
            path = signatures.sign_folder(folder, private)
        signature = signatures.verify_signature(folder, name, number, key)
        _upload(client, version, path)
    return Signed(signature, already=False)


def _upload(client: MlflowClient, version: ModelVersion, path: Path) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    files = client.get_model_version_download_uri(version.name, version.version)
    get_artifact_repository(files).log_artifact(str(path), SIGNATURES)


def hold_unsigned(decision: Decision, version: ModelVersion, public_key: str | None) -> Decision:
    """Refuse a version that passed the gate without a valid signature of a key, if one is given."""
    if public_key is None or not decision.passed:
        return decision
    try:
        signatures.verify_version(version, public_key)
    except UnverifiedError as error:
        return replace(
            decision,
            held=True,
            reason=f"{error}. With a valid signature, `crossfold promote {version.version}` makes "
            f"it champion. Its scores: {decision.reason}",
        )
    return decision
