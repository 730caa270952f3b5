"""Check one image file, and make the squares that training takes, from one decode if possible."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from crossfold.imaging import decoding
from crossfold.imaging.content_hash import content_hash
from crossfold.imaging.decoding import BadImage, opened
from crossfold.imaging.near_duplicates import shrink
from crossfold.imaging.quality import remarks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crossfold.data.image_source import ImageSource
    from crossfold.data.square_file import SquareFile
    from crossfold.imaging.preprocessing import SquareGeometry

# The check decodes a JPEG to no less than this, whatever the backbones, since the splits depend on
# it. The square of 224 pixels, the usual one, comes from the same decode.
SMALLEST_DECODED = (448, 448)


class FileFacts(NamedTuple):
    """Facts of an image's file that say nothing about what the image shows."""

    num_bytes: int
    width: int  # in the file's pixels, upright
    height: int
    camera: str  # make and model by EXIF; empty if unknown
    format: str  # as Pillow names it


NO_FILE = FileFacts(0, 0, 0, "", "")


@dataclass(frozen=True)
class CheckedImage:
    """The findings on an image file; one that is unusable has only the reason."""

    hash: str = ""  # see `content_hash`
    file: FileFacts = NO_FILE
    reduced: bool = False  # True if the hash is of fewer pixels than the file has
    remarks: dict[str, str] = field(default_factory=dict)
    reason: str = ""  # why the image is unusable

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in the file's pixels, upright."""
        return self.file.width, self.file.height


def check_image(
    source: ImageSource, path: str, image_size: int | None, squares: SquareFile | None
) -> tuple[CheckedImage, NDArray[np.uint8] | None]:
    """Check an image, and write its squares.

    Returns:
        The findings, and the sketch for the search of near duplicates, uint8 [32, 32].

    Raises:
        OSError: no space left for the squares.
    """
    try:
        data = source.read(path)
        geometries = squares.geometries if squares else ()
        checked, sketch, made = _decode(data, path, image_size, geometries)
    except BadImage as error:
        return CheckedImage(reason=str(error)), None
    except OSError as error:
        return CheckedImage(reason=f"cannot be read: {error.strerror}"), None
    if squares:
        squares.write(path, made)
    return checked, sketch


def _decode(
    data: bytes, path: str, image_size: int | None, geometries: Sequence[SquareGeometry]
) -> tuple[CheckedImage, NDArray[np.uint8], dict[SquareGeometry, NDArray[np.uint8]]]:
    with opened(data, SMALLEST_DECODED, with_warnings=True) as picture:
        small = shrink(picture)
        sketch = np.asarray(small.convert("L"))
        checked = CheckedImage(
            content_hash(picture),
            FileFacts(len(data), *picture.original_size, picture.camera, picture.format),
            picture.reduced,
            remarks(path, picture, small, sketch, image_size),
        )
        wanted = [one for one in geometries if not _is_small(one, checked.file)]
        made = {one: picture.square(one) for one in wanted if picture.serves(one)}
    for one in wanted:  # of another reduction; a thread must not have two pictures open
        if one not in made:
            made[one] = decoding.square(data, one)
    return checked, sketch, made


def _is_small(geometry: SquareGeometry, file: FileFacts) -> bool:
    """Tell whether an image has fewer pixels, and its file fewer bytes, than its square.

    The file then takes its square's place.
    """
    num_pixels = geometry.image_size**2
    return file.width * file.height < num_pixels and file.num_bytes < 3 * num_pixels
