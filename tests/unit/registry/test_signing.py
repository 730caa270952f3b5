"""Signing versions in a real registry, and verifying them there and with the library's program."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient

from crossfold.errors import UserError
from crossfold.network import GRAPH_FILE
from crossfold.predict import file_hashes, signatures
from crossfold.predict.model import download_path
from crossfold.predict.signatures import UnverifiedError, public_key_of, verify_version
from crossfold.records import Verdict
from crossfold.registry.gate import Decision
from crossfold.registry.signing import hold_unsigned, sign_version
from crossfold.step.files import hash_file
from crossfold.tracking.store import connect

PROGRAM = Path(sys.executable).with_name("model_signing")


def write_key(path: Path) -> Path:
    """Write a new private key, and its public key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain))
    path.with_suffix(".pub").write_text(public_key_of(path))
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_key(tmp_path / "signing.pem")


@pytest.fixture
def client(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    shutil.copy(empty_store, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/{empty_store.name}")
    client = connect()
    client.create_registered_model("crossfold")
    return client


@pytest.fixture
def version(client: MlflowClient, tmp_path: Path) -> ModelVersion:
    return register(client, tmp_path / "model", "learned")


def register(client: MlflowClient, folder: Path, learned: str) -> ModelVersion:
    (folder / file_hashes.ARTIFACTS).mkdir(parents=True)
    (folder / file_hashes.ARTIFACTS / GRAPH_FILE).write_text(learned)
    (folder / "MLmodel").write_text("flavors: {}")
    return tagged(client, folder)


def tagged(client: MlflowClient, folder: Path) -> ModelVersion:
    hashes = {k: v for k, v in file_hashes.hash_folder(folder).items() if "signatures" not in k}
    tags = {file_hashes.TAG: json.dumps(hashes)}
    return client.create_model_version("crossfold", folder.as_uri(), tags=tags)


def test_a_signature_names_its_key_and_stays_the_same(
    client: MlflowClient, version: ModelVersion, key: Path, tmp_path: Path
) -> None:
    signed = sign_version(client, version, key)
    public = key.with_suffix(".pub")
    assert signed.signature == (hash_file(public), "crossfold version 1", 2)
    before = file_hashes.hash_folder(tmp_path / "model")
    again = sign_version(client, version, key)
    assert (signed.already, again.already) == (False, True)
    assert file_hashes.hash_folder(tmp_path / "model") == before
    sign_version(client, version, write_key(tmp_path / "other.pem"))
    assert verify_version(version, public.read_text()) == signed.signature


def test_the_librarys_program_verifies_a_download(
    client: MlflowClient, version: ModelVersion, key: Path, tmp_path: Path
) -> None:
    signer = sign_version(client, version, key).signature.fingerprint
    folder = download_path(version, "", str(tmp_path / "download"))
    signature = folder / f"signatures/{signer}.sig"
    command = [str(PROGRAM), "verify", "key", str(folder)]
    command += ["--public_key", str(key.with_suffix(".pub")), "--signature", str(signature)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "MLmodel").write_text("flavors: {python_function: {}}")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("changed", ["modified", "added", "missing"])
def test_other_files_than_those_signed_are_refused_with_hashes_to_match(
    client: MlflowClient, version: ModelVersion, key: Path, tmp_path: Path, changed: str
) -> None:
    sign_version(client, version, key)
    path = tmp_path / "model" / ("new.py" if changed == "added" else "MLmodel")
    path.unlink() if changed == "missing" else path.write_text("other")
    public = public_key_of(key)
    with pytest.raises(UnverifiedError, match=f"crossfold version 1: .*{path.name}"):
        verify_version(version, public)
    hashes = tagged(client, tmp_path / "model").tags[file_hashes.TAG]
    client.set_model_version_tag("crossfold", "1", file_hashes.TAG, hashes)
    with pytest.raises(UnverifiedError, match=f"crossfold version 1: .* valid: .*{path.name}"):
        verify_version(client.get_model_version("crossfold", "1"), public)


def test_a_signature_of_another_key_or_version_is_refused(
    client: MlflowClient, version: ModelVersion, key: Path, tmp_path: Path
) -> None:
    public = public_key_of(key)
    with pytest.raises(UnverifiedError, match="crossfold version 1 is not signed"):
        verify_version(version, public)
    signer = sign_version(client, version, key).signature.fingerprint
    other = public_key_of(write_key(tmp_path / "other.pem"))
    with pytest.raises(UnverifiedError, match=f"only with {signer}"):
        verify_version(version, other)
    with pytest.raises(UnverifiedError, match="is that of crossfold-1"):
        verify_version(tagged(client, tmp_path / "model"), public)
    path = tmp_path / f"model/signatures/{signer}.sig"
    path.rename(path.with_stem(signatures.fingerprint(other)))
    with pytest.raises(UnverifiedError, match="is not valid"):
        verify_version(version, other)


def test_the_gate_holds_a_version_that_is_not_signed(
    client: MlflowClient, version: ModelVersion, key: Path
) -> None:
    passed, public = Decision(Verdict.FIRST, "good"), public_key_of(key)
    assert hold_unsigned(passed, version, None) == passed
    held = hold_unsigned(passed, version, public)
    assert not held.passed and "`crossfold promote 1`" in held.reason
    sign_version(client, version, key)
    assert hold_unsigned(passed, version, public) == passed


@pytest.mark.parametrize("unusable", ["missing", "text", "public", "other curve"])
def test_a_key_that_cannot_sign_is_refused_by_name(
    client: MlflowClient, version: ModelVersion, key: Path, tmp_path: Path, unusable: str
) -> None:
    if unusable == "missing":
        key.unlink()
    elif unusable == "other curve":
        curve = ec.generate_private_key(ec.SECP256K1())
        plain = serialization.NoEncryption()
        form = serialization.PrivateFormat.PKCS8
        key.write_bytes(curve.private_bytes(serialization.Encoding.PEM, form, plain))
    else:
        key.write_text(key.with_suffix(".pub").read_text() if unusable == "public" else "key")
    with pytest.raises(UserError, match=str(key)):
        sign_version(client, version, key)
    assert not (tmp_path / "model/signatures").exists()
