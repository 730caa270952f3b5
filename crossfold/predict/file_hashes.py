"""Hash and verify the files of a registered version with SHA-256.

See docs/decisions/026-file-hashes.md.
"""

import hashlib
from pathlib import Path

from crossfold.errors import UserError

# A version's tag: JSON with each file's hash by its path in the version's folder.
TAG = "files_sha256"
# Subfolder of a version with the files that Crossfold reads, written by `registry.package`.
ARTIFACTS = "artifacts"


def hash_file(path: Path) -> str:
    """Compute a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: Path) -> dict[str, str]:
    """Compute the SHA-256 of each file below a folder, by its relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in files}


def verify_file(path: Path, registered: str, version: str) -> None:
    """Check that a file is the one that was registered.

    Raises:
        UserError: its hash differs; the message names the version and the file.
    """
    if hash_file(path) != registered:
        raise UserError(
            f"{version}: {path.name} is damaged or has been modified, so it was not loaded: its "
            "SHA-256 is not the one that was registered. Restore the file, or remove the version's "
            "aliases in MLflow and use another version"
        )
