"""Which images a model was trained on, and which it was tested on, by what they show."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from crossfold import tensorfile
from crossfold.examples import TEST, TRAIN

if TYPE_CHECKING:
    from pathlib import Path

    from crossfold.examples import Examples

# Where a registered version keeps it.
FILE = "training_images.safetensors"
_ARRAY = "content_hash"


def write(path: Path, table: Examples) -> None:
    """Write the content hashes of the table's training images, uint8 [N, 32], sorted."""
    hashes = b"".join(bytes.fromhex(text) for text in sorted(set(_hashes(table, TRAIN))))
    rows = np.frombuffer(hashes, np.uint8).reshape(-1, hashlib.sha256().digest_size)
    tensorfile.write(path, {_ARRAY: rows}, {})


def read(path: Path) -> frozenset[str]:
    """Return the content hashes that `write` wrote."""
    arrays, _ = tensorfile.read(path)
    return frozenset(row.tobytes().hex() for row in arrays[_ARRAY])


def split_hash(table: Examples) -> str:
    """Return the SHA-256 of the test split: its images by content, each with its class."""
    labels = (table.classes[label] for label in table.column("label", TEST))
    pairs = zip(_hashes(table, TEST), labels, strict=True)
    return hashlib.sha256("".join(f"{h} {c}\n" for h, c in sorted(pairs)).encode()).hexdigest()


def _hashes(table: Examples, split: str) -> list[str]:
    return [str(text) for text in table.column("content_hash", split)]
