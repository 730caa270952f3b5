"""Tie large JPEGs to copies of them in other formats, whose content hashes differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossfold.imaging.content_hash import whole_hash
from crossfold.imaging.decoding import BadImage
from crossfold.step.concurrency import in_order, num_cores

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from crossfold.data.image_source import ImageSource

    from .image import CheckedImage


def tie_copies(
    source: ImageSource, images: Mapping[str, CheckedImage], pairs: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Give copies one content hash, if JPEG's decoder reduced one of two and not the other.

    Only near duplicates of equal size can be such copies. All their pixels are compared. The JPEG
    keeps its hash, because it is the same whether a copy is there or not.

    Args:
        source: The images.
        images: The findings on each image, by its path.
        pairs: The paths of near duplicates.

    Returns:
        The content hash of each image.
    """
    possible = [
        (ours, theirs) if images[ours].reduced else (theirs, ours)
        for ours, theirs in pairs
        if images[ours].size == images[theirs].size
        and images[ours].reduced != images[theirs].reduced
    ]
    jpegs = sorted({jpeg for jpeg, _ in possible})

    def whole(path: str) -> str:
        try:
            return whole_hash(source.read(path))
        except BadImage:  # too large to be decoded whole
            return ""

    whole_hashes = dict(zip(jpegs, in_order(whole, jpegs, num_cores()), strict=True))
    tied = {
        images[other].hash: images[jpeg].hash
        for jpeg, other in possible
        if whole_hashes[jpeg] == images[other].hash
    }
    return {path: tied.get(image.hash, image.hash) for path, image in images.items()}
