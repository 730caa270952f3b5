"""Write files completely or not at all, and hash them."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replaced_whole(path: Path) -> Iterator[Path]:
    """Yield a path to write to; the file replaces `path` if the block succeeds.

    If the block fails, `path` stays as it was and nothing is left beside it.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        with suppress(OSError):  # it must not hide the block's error
            part.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """Compute a file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
