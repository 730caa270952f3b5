"""Estimate the disk that a data version takes, before a byte of it is read."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crossfold.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from crossfold.imaging.preprocessing import SquareGeometry
    from crossfold.versioning.dvc import Pointer

_CHANNELS = 3
# Photographs have some 1 to 16 pixels for each byte of their files.
_PIXELS_OF_BYTE = 8


@dataclass(frozen=True)
class DiskNeed:
    """The bytes that `fetch_data` writes for a data version.

    Attributes:
        num_images: The number of images.
        squares: The squares of all images, which a scratch file holds until the splits are known.
        table: The table of examples: squares of the training images, files of the test images.
    """

    num_images: int
    squares: int
    table: int

    @property
    def total(self) -> int:
        """The bytes of both."""
        return self.squares + self.table

    def require(self, folder: Path) -> None:
        """Check that a folder's disk has room for both.

        Raises:
            UserError: it is too small.
        """
        free = shutil.disk_usage(folder).free
        if self.total > free:
            raise UserError(
                f"the {self.num_images} images of data.dvc need {self.total / 1e9:.1f} GB and "
                f"{folder} has {free / 1e9:.1f} GB free: {self.squares / 1e9:.1f} GB for decoded "
                f"squares, {self.table / 1e9:.1f} GB for the table of examples. Free some space, "
                "or lower data.test_fraction or model.image_size in params.yaml"
            )


def least_need(pointer: Pointer, geometries: Sequence[SquareGeometry]) -> DiskNeed:
    """Estimate the need for the share of test images that takes the least disk."""
    needs = (estimate_need(pointer, test_share, geometries) for test_share in (0.0, 1.0))
    return min(needs, key=lambda need: need.total)


def estimate_need(
    pointer: Pointer, test_share: float | None, geometries: Iterable[SquareGeometry]
) -> DiskNeed:
    """Estimate the need from the size and the number of files in a pointer.

    `test_share` is the share of the images in the test split. None is an unknown share: each image
    is counted as its file or its squares, whichever is larger.

    A file takes its square's place if its image has fewer pixels. Those of a file of average size
    are estimated. Without the size or the number, nothing is estimated: the need is 0.
    """
    if not (pointer.num_bytes and pointer.num_files):
        return DiskNeed(num_images=pointer.num_files, squares=0, table=0)
    num_images = pointer.num_files
    of_file = pointer.num_bytes / num_images
    sizes = [one.image_size**2 for one in geometries]
    of_squares = sum(
        of_file if _PIXELS_OF_BYTE * of_file < size else _CHANNELS * size for size in sizes
    )
    if test_share is None:
        test_share = float(of_file > of_squares)
    return DiskNeed(
        num_images=num_images,
        squares=round(num_images * of_squares),
        table=round(num_images * ((1 - test_share) * of_squares + test_share * of_file)),
    )
