"""Tie large JPEGs to copies of them in other formats, whose content hashes differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossfold.imaging.content_hash import whole_hash
from crossfold.imaging.decoding import BadImage
from crossfold.step.concurrency import in_order, num_cores

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from crossfold.data.image_source import ImageSource

    from .image import CheckedImage


def tie_copies(
    source: ImageSource, images: Mapping[str, CheckedImage], pairs: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Give copies one content hash, if JPEG's decoder reduced one of two and not the other.

    Only near duplicates of equal size can be such copies, or two images of equal size that both
    lack the contrast to be compared. All their pixels are compared. The JPEG keeps its hash,
    because it is the same whether a copy is there or not.

    Args:
        source: The images.
        images: The findings on each image, by its path.
        pairs: The paths of near duplicates.

    Returns:
        The content hash of each image.
    """
    jpegs = sorted({*_similar_jpegs(images, pairs), *_flat_jpegs(images)})

    def whole(path: str) -> str:
        try:
            return whole_hash(source.read(path))
        except BadImage:  # too large to be decoded whole
            return ""

    whole_hashes = in_order(whole, jpegs, num_cores())
    tied = {found: images[jpeg].hash for jpeg, found in zip(jpegs, whole_hashes, strict=True)}
    return {path: tied.get(image.hash, image.hash) for path, image in images.items()}


def _similar_jpegs(
    images: Mapping[str, CheckedImage], pairs: Iterable[tuple[str, str]]
) -> Iterator[str]:
    """List the reduced images with a near duplicate of equal size that is not reduced."""
    for ours, theirs in pairs:
        a, b = images[ours], images[theirs]
        if a.size == b.size and a.reduced != b.reduced:
            yield ours if a.reduced else theirs


def _flat_jpegs(images: Mapping[str, CheckedImage]) -> list[str]:
    """List the reduced images without contrast, if one of equal size is not reduced."""
    flat = {path: image for path, image in images.items() if "flat" in image.remarks}
    sizes = {image.size for image in flat.values() if not image.reduced}
    return [path for path, image in flat.items() if image.reduced and image.size in sizes]
