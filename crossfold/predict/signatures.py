"""Sign and verify the folder of a registered version with OpenSSF Model Signing.

The library takes half a second to import, so functions import it when needed. See
docs/decisions/057-signed-versions.md.
"""

import base64
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from crossfold.errors import UserError
from crossfold.settings import RegistrySettings

from .file_hashes import ORIGIN_FILE, SIGNATURES, registered_hashes, verify_folder
from .model import download_path

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from mlflow.entities.model_registry import ModelVersion

# Environment variable: the path of the private key that signs new versions.
SIGNING_KEY = "CROSSFOLD_SIGNING_KEY"
_CURVES = {"secp256r1", "secp384r1", "secp521r1"}  # of the format and the library
_MAKE_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out signing.pem"
_MAKE_PUBLIC_KEY = "openssl ec -in signing.pem -pubout -out signing.pub"


class UnverifiedError(UserError):
    """A version has no valid signature of the key."""


class Signature(NamedTuple):
    """A valid signature: the key's fingerprint, the signed version and its number of files."""

    fingerprint: str
    version: str
    num_files: int


def read_public_key(path: Path) -> str:
    """Read a public key, as PEM in the spelling whose SHA-256 is the key's fingerprint.

    Raises:
        UserError: the file is missing, or is no public key on a supported elliptic curve.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(path))
    except ValueError:
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise UserError(
            f"{path} is no public key on the elliptic curve P-256, P-384 or P-521, in PEM. To make "
            f"one of a private key: {_MAKE_PUBLIC_KEY}"
        )
    return _as_pem(key)


def required_key(settings: RegistrySettings, root: Path) -> str | None:
    """Read the public key whose signature every used version needs; None if there is none.

    Raises:
        UserError: the file that the settings name is missing, or has no usable key.
    """
    if settings.signature_key is None:
        return None
    try:
        return read_public_key(root / settings.signature_key)
    except UserError as error:
        raise UserError(f"registry.signature_key: {error}") from None


def public_key_of(private: Path) -> str:
    """Read a private key, and give its public key like `read_public_key`.

    Raises:
        UserError: the file is missing, or is no private key on a supported elliptic curve, or it
            is encrypted.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_read(private), None)
    except (TypeError, ValueError):  # TypeError: it is encrypted
        key = None
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise UserError(
            f"{private} is no private key without a password on the elliptic curve P-256, P-384 or "
            f"P-521, in PEM. To make one: {_MAKE_KEY}"
        )
    return _as_pem(key.public_key())


def new_versions_key() -> Path | None:
    """Find the private key that signs new versions; None without the variable.

    Raises:
        UserError: the variable is set, and names no usable key.
    """
    path = os.environ.get(SIGNING_KEY)
    if not path:
        return None
    public_key_of(Path(path))
    return Path(path)


def fingerprint(public_key: str) -> str:
    """Compute the SHA-256 of a public key's PEM, which a signature names."""
    return hashlib.sha256(public_key.encode()).hexdigest()


def sign_folder(folder: Path, private: Path) -> Path:
    """Sign the files of a folder from `download_folder`, and write the signature below it.

    The signature names every file with its SHA-256, and the folder, whose name is the version.
    """
    from model_signing import hashing, signing

    path = _signature_file(folder, public_key_of(private))
    path.parent.mkdir(exist_ok=True)
    hashed = hashing.Config().set_ignored_paths(
        paths=[SIGNATURES, ORIGIN_FILE], ignore_git_paths=False
    )
    signer = signing.Config().use_elliptic_key_signer(private_key=private)
    signer.set_hashing_config(hashed).sign(folder, path)
    return path


def verify_signature(folder: Path, name: str, number: str, public_key: str) -> Signature:
    """Check that a version's folder has a valid signature of a key, for this very version.

    Raises:
        UnverifiedError: there is no signature of the key, or it doesn't match the folder's files,
            or it is that of another version; the message names the version.
    """
    version, key = f"{name} version {number}", fingerprint(public_key)
    path = _signature_file(folder, public_key)
    if not path.is_file():
        raise UnverifiedError(
            f"{version} is not signed with the key {key}{_other_signers(path.parent)}. To sign it: "
            f"`crossfold sign {name}/{number} --key KEY.pem`"
        )
    try:
        _verify(folder, path, public_key)
        signed, num_files = _read_statement(path)
    except Exception as error:  # the file may contain anything
        text = str(error).partition(": Expected ")[0]  # without two digests as bytes
        reason = " ".join(text.split()) or "it was made with another key"
        raise UnverifiedError(
            f"{version}: the signature of the key {key} is not valid: {reason}"
        ) from None
    if signed != _subject(name, number):
        raise UnverifiedError(f"{version}: the signature of the key {key} is that of {signed}")
    return Signature(key, version, num_files)


def verify_version(version: "ModelVersion", public_key: str) -> Signature:
    """Download a version, and check its signature, and that its tags have the signed hashes.

    After it, a file that matches the tags of this `version` is a signed one.

    Raises:
        UnverifiedError: the signature is missing, or isn't valid.
        UserError: the version cannot be downloaded, or its files differ from those registered.
    """
    with tempfile.TemporaryDirectory() as parent:
        folder = download_folder(version, parent)
        return verify_signature(folder, version.name, str(version.version), public_key)


def download_folder(version: "ModelVersion", parent: str) -> Path:
    """Download all files of a version into a new folder below `parent`, and check their hashes.

    Raises:
        UnverifiedError: a file was modified, is missing or was added.
        UserError: the version has no hashes, or its files are gone.
    """
    title = f"{version.name} version {version.version}"
    hashes = registered_hashes(version.tags)
    if hashes is None:
        raise UnverifiedError(
            f"{title} has no signature and can't get one: an earlier Crossfold registered it "
            "without hashes. Train a new version with `crossfold run`"
        )
    folder = Path(parent) / _subject(version.name, str(version.version))
    folder.mkdir()
    download_path(version, "", str(folder))
    try:
        verify_folder(folder, hashes, title)
    except UserError as error:
        raise UnverifiedError(str(error)) from None
    return folder


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the key cannot be read: {error.strerror}") from None


def _as_pem(key: "EllipticCurvePublicKey") -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _subject(name: str, number: str) -> str:
    """Name a version in its signature; the last hyphen is before the number."""
    return f"{name}-{number}"


def _signature_file(folder: Path, public_key: str) -> Path:
    """Name the file of a key's signature. Each key has its own, so none replaces another."""
    return folder / SIGNATURES / f"{fingerprint(public_key)}.sig"


def _other_signers(folder: Path) -> str:
    keys = [path.stem for path in sorted(folder.glob("*.sig"))]
    return f", only with {', '.join(keys)}" if keys else ", and with no other"


def _verify(folder: Path, signature: Path, public_key: str) -> None:
    from model_signing import verifying

    with tempfile.NamedTemporaryFile("w", suffix=".pub") as key:
        key.write(public_key)
        key.flush()
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key.name)
        verifier.verify(folder, signature)


def _read_statement(signature: Path) -> tuple[str, int]:
    """Read the signed folder's name and the number of its files from a verified signature.

    It is a Sigstore bundle with an in-toto statement: https://github.com/sigstore/model-transparency
    """
    bundle = json.loads(signature.read_text())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    return statement["subject"][0]["name"], len(statement["predicate"]["resources"])
