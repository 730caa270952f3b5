"""Check that a backup's files are complete.

`kubectl exec` may succeed although it lost the connection before the end of the output.
"""

import tarfile
from pathlib import Path

from crossfold.errors import UserError

_NUM_LAST_BYTES = 4096


def require_end(path: Path, words: str) -> None:
    """Raise UserError unless a file has these words in its last 4 KB."""
    if words.encode() not in _last_bytes(path, _NUM_LAST_BYTES):
        raise _incomplete(path)


def require_tar_end(path: Path) -> None:
    """Raise UserError unless a tar archive has Python's whole records and two zero blocks last."""
    end = bytes(2 * tarfile.BLOCKSIZE)
    if path.stat().st_size % tarfile.RECORDSIZE or _last_bytes(path, len(end)) != end:
        raise _incomplete(path)


def _last_bytes(path: Path, num_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - num_bytes))
        return file.read()


def _incomplete(path: Path) -> UserError:
    return UserError(f"{path.name} was not received to its end: run the command again")
