"""Write and read the content hashes of a model's training images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crossfold.data.examination.image import SMALLEST_DECODED
from crossfold.data.examples import BATCH_SIZE, TEST, TRAIN
from crossfold.imaging.content_hash import whole_hash
from crossfold.imaging.decoding import BadImage
from crossfold.network import safetensors_file
from crossfold.step.concurrency import in_order

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from crossfold.data.examples import Examples

# Name of the file in a registered version.
FILE = "training_images.safetensors"
_ARRAY = "content_hash"


@dataclass(frozen=True)
class TrainingImages:
    """The content hashes of a version's training images, in hexadecimal.

    Versions registered before JPEGs were reduced for the check have hashes of `whole` images.
    """

    hashes: frozenset[str] = frozenset()
    whole: bool = False

    def among_test_images(self, table: Examples, num_threads: int) -> NDArray[np.bool_]:
        """Tell which images of the test split the version was trained on, [N]."""
        found = _whole_hashes(table, num_threads) if self.whole else table.column(_ARRAY, TEST)
        return np.array([text in self.hashes for text in found], np.bool_)


def write(path: Path, table: Examples) -> None:
    """Write the content hashes of the table's training images, uint8 [N, 32], sorted."""
    texts = sorted(set(table.column("content_hash", TRAIN)))
    hashes = b"".join(map(bytes.fromhex, texts))
    rows = np.frombuffer(hashes, np.uint8).reshape(-1, hashlib.sha256().digest_size)
    safetensors_file.write(path, {_ARRAY: rows}, {"smallest_decoded": SMALLEST_DECODED})


def read(path: Path) -> TrainingImages:
    """Read a file that `write` wrote, in this release or an earlier one."""
    arrays, about = safetensors_file.read(path)
    hashes = frozenset(row.tobytes().hex() for row in arrays[_ARRAY])
    return TrainingImages(hashes, whole="smallest_decoded" not in about)


def _whole_hashes(table: Examples, num_threads: int) -> list[str]:
    return [
        text
        for _, images, _ in table.batches(TEST, BATCH_SIZE)
        for text in in_order(_whole_hash, images, num_threads)
    ]


def _whole_hash(image: bytes | NDArray[np.uint8]) -> str:
    assert isinstance(image, bytes)  # test images have their files
    try:
        return whole_hash(image)
    except BadImage:  # too large to be decoded whole, so an earlier release refused it
        return ""
