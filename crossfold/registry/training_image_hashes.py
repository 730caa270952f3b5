"""Write and read the content hashes of a model's training images."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from crossfold.data.examples import TRAIN
from crossfold.network import safetensors_file

if TYPE_CHECKING:
    from pathlib import Path

    from crossfold.data.examples import Examples

# Name of the file in a registered version.
FILE = "training_images.safetensors"
_ARRAY = "content_hash"


def write(path: Path, table: Examples) -> None:
    """Write the content hashes of the table's training images, uint8 [N, 32], sorted."""
    texts = sorted(set(table.column("content_hash", TRAIN)))
    hashes = b"".join(map(bytes.fromhex, texts))
    rows = np.frombuffer(hashes, np.uint8).reshape(-1, hashlib.sha256().digest_size)
    safetensors_file.write(path, {_ARRAY: rows}, {})


def read(path: Path) -> frozenset[str]:
    """Read the content hashes, in hexadecimal, from a file that `write` wrote."""
    arrays, _ = safetensors_file.read(path)
    return frozenset(row.tobytes().hex() for row in arrays[_ARRAY])
