"""Hash and verify the files of a registered version with SHA-256.

See docs/decisions/026-file-hashes.md.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from crossfold.errors import UserError
from crossfold.step.files import hash_file

# A version's tag: a JSON object with each file's hash, by the file's path in the version's folder.
TAG = "files_sha256"
# Subfolder of a version with the files that Crossfold reads, written by `registry.package`.
ARTIFACTS = "artifacts"
# Subfolder of a version with its signatures, which are added after the registration.
SIGNATURES = "signatures"
# MLflow up to 3.17 adds it to a downloaded version: its name and number.
ORIGIN_FILE = "registered_model_meta"
_ADVICE = "Restore the file, or remove the version's aliases in MLflow and use another version"


def hash_folder(folder: Path) -> dict[str, str]:
    """Compute the SHA-256 of each file below a folder, by its relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in files}


def registered_hashes(tags: Mapping[str, str]) -> dict[str, str] | None:
    """Read the hashes of a version's files from its tags; None if it has none."""
    hashes: dict[str, str] | None = json.loads(tags.get(TAG, "null"))
    return hashes


def verify_folder(folder: Path, registered: Mapping[str, str], version: str) -> None:
    """Check that a folder holds exactly the files that were registered, beside signatures.

    Raises:
        UserError: a file is missing, new or modified; the message names the version and the file.
    """
    hashes = {
        name: digest
        for name, digest in hash_folder(folder).items()
        if name != ORIGIN_FILE and not name.startswith(f"{SIGNATURES}/")
    }
    if unexpected := sorted(hashes.keys() ^ registered.keys()):
        raise UserError(
            f"{version}: {unexpected[0]} is missing, or was added after the registration, so "
            f"nothing was loaded. {_ADVICE}"
        )
    for name, registered_hash in registered.items():
        if hashes[name] != registered_hash:
            raise _modified(version, name)


def verify_file(path: Path, registered: str, version: str) -> None:
    """Check that a file is the one that was registered.

    Raises:
        UserError: its hash differs; the message names the version and the file.
    """
    if hash_file(path) != registered:
        raise _modified(version, path.name)


def _modified(version: str, name: str) -> UserError:
    return UserError(
        f"{version}: {name} is damaged or has been modified, so it was not loaded: its SHA-256 is "
        f"not the one that was registered. {_ADVICE}"
    )
