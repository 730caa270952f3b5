"""Decode image files within a memory bound: upright, RGB, 8 bits a channel.

Training, prediction, checks and pages all open images here, so they see the same pixels.
"""

from __future__ import annotations

import math
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from PIL import Image, ImageFile, UnidentifiedImageError

from crossfold.step.concurrency import Budget

from . import decoder_warnings, exif, libjpeg
from .bit_depth import stored_bits
from .header import Header, open_image
from .picture import STRIP, Picture, to_rgb

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from .preprocessing import SquareGeometry

# An encoded image that is larger is not even read.
MAX_FILE_SIZE = 256 * 2**20
# Bytes that one image may take while it is decoded, and that all together may.
MAX_MEMORY = 2**30
# Pillow refuses twice this number of pixels as soon as it has read the header. At 4 bytes a pixel,
# these fill MAX_MEMORY.
Image.MAX_IMAGE_PIXELS = MAX_MEMORY // 8

# EXIF orientation -> the turn that makes an image upright; 1 is upright. Not Pillow's
# exif_transpose, which also rewrites the EXIF and can fail at that.
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Formats whose decoders turn the image.
_TURNED_BY_DECODER = {"TIFF", "HEIF", "JXL"}
# Bytes a pixel that a decoder takes beside the decoded image, measured with photographs of 6
# megapixels and rounded up (docs/decisions/030-memory-of-images.md). Other formats: the maximum.
_BESIDE = {"JPEG": 0, "MPO": 0, "PNG": 0, "BMP": 0, "TIFF": 4, "HEIF": 5, "AVIF": 8, "WEBP": 13}
_BESIDE_AT_MOST = 16
_BESIDE_PROGRESSIVE = 6  # all coefficients of a progressive JPEG
_BYTES_OF_MODE = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
# Of each pixel of a strip, while it is turned and converted.
_BESIDE_STRIP = 16

_budget = Budget(MAX_MEMORY)


class BadImage(ValueError):  # noqa: N818
    """The bytes are not a usable image; the message says why in a few words."""


def read_image(path: str | os.PathLike[str], at_most: int = MAX_FILE_SIZE) -> bytes:
    """Read the bytes of a regular file.

    Raises:
        BadImage: it is not a regular file, or has more than `at_most` bytes.
        OSError: it cannot be read.
    """
    status = os.stat(path)  # noqa: PTH116
    if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for a writer
        raise BadImage(f"{_kind(status.st_mode)}, not a file")
    refuse_large(status.st_size, at_most)
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read()


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a named pipe (FIFO)"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a folder" if stat.S_ISDIR(mode) else "a device"


def refuse_large(num_bytes: int, at_most: int = MAX_FILE_SIZE) -> None:
    """Raise BadImage if an encoded image has more than `at_most` bytes."""
    if num_bytes > at_most:
        raise BadImage(f"too large: {num_bytes} bytes, at most {at_most} allowed")


@contextmanager
def opened(
    data: bytes, at_least: tuple[int, int] | None = None, *, with_warnings: bool = False
) -> Iterator[Picture]:
    """Decode an image file, and reserve its share of the image memory during the block.

    Waits until that much memory is free. An animation gives its first frame; transparency becomes
    white. A thread must not open a second image inside the block.

    Args:
        data: The encoded image.
        at_least: Smallest size to which a JPEG may be decoded, which is fast; other formats are
            decoded whole.
        with_warnings: List libjpeg's warnings too, see `libjpeg`.

    Raises:
        BadImage: empty, not an image, corrupt, truncated, or too large.
    """
    if not data:
        raise BadImage("the file is empty")
    with decoder_warnings.collected() as warnings:
        with _refused():
            image = open_image(data)
            header = Header.read(image, at_least)
            needed = _memory(image, header, len(data))
        with _budget.part(needed):
            with _refused():
                picture = _load(image, header, data, warnings, with_libjpegs=with_warnings)
            yield picture


def square(data: bytes, geometry: SquareGeometry) -> NDArray[np.uint8]:
    """Decode an image file to the network's input square, see `Picture.square`.

    A JPEG is decoded to a reduced size if the geometry has a `reducing_gap`.

    Raises:
        BadImage: as `opened`.
    """
    with opened(data, geometry.smallest_decoded) as picture:
        return picture.square(geometry)


@contextmanager
def _refused() -> Iterator[None]:
    """Turn a decoder's exceptions into BadImage."""
    try:
        yield
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImage("corrupt, or not an image in a known format") from None
    except Image.DecompressionBombError as error:
        raise BadImage(f"too large: {error}") from None
    except Exception as error:  # decoders raise exceptions of every type
        raise BadImage(f"corrupt or truncated: {error}") from None


def _memory(image: ImageFile.ImageFile, header: Header, num_bytes: int) -> int:
    """Estimate from its header the bytes that an image takes during decoding.

    Raises:
        BadImage: the image takes more than MAX_MEMORY.
    """
    num_pixels = image.width * image.height
    of_pixel = _BYTES_OF_MODE.get(image.mode, 4) + _BESIDE.get(image.format or "", _BESIDE_AT_MOST)
    needed = num_bytes + num_pixels * of_pixel
    if image.info.get("progressive"):  # the coefficients are those of the whole image
        needed += math.prod(header.size) * _BESIDE_PROGRESSIVE
    if needed > MAX_MEMORY:
        raise BadImage(
            f"too large: {header.size[0]} x {header.size[1]} pixels of {image.format} take "
            f"{needed / 2**30:.1f} GiB of memory, at most {MAX_MEMORY / 2**30:g} GiB allowed"
        )
    return needed + min(num_pixels, STRIP) * _BESIDE_STRIP


def _load(
    image: ImageFile.ImageFile,
    header: Header,
    data: bytes,
    warnings: list[str],
    *,
    with_libjpegs: bool,
) -> Picture:
    # Loading drops the format, the mode and the tiles.
    image_format, mode = image.format or "", image.mode
    is_16_bits = any(";16" in str(tile) for tile in image.tile)
    # Loading turns a TIFF, but a PNG may have its EXIF behind the pixels.
    orientation = exif.orientation(image) if image_format == "TIFF" else 1
    stored: Image.Image = image
    libjpegs: list[str] = []
    if with_libjpegs and image_format in {"JPEG", "MPO"}:
        stored, libjpegs = _load_jpeg(image, data)
    else:
        image.load()
    if image_format != "TIFF":
        orientation = exif.orientation(image)
    depth = 16 if is_16_bits else 8
    if image.mode.startswith(("I", "F")):
        depth = stored_bits(image, data)
        if not depth:
            raise BadImage(
                f"pixels of mode {image.mode} have no fixed range; save with 8 or 16 bits"
            )
    by_us = None if image_format in _TURNED_BY_DECODER else _TO_UPRIGHT.get(orientation)
    to_rgb(stored.crop((0, 0, 1, 1)), depth)  # fails here if it fails at all
    return Picture(
        format=image_format,
        mode=mode,
        depth=depth,
        turned=orientation in _TO_UPRIGHT,
        camera=exif.camera(image),
        warnings=(*warnings, *libjpegs),
        _stored=stored,
        _turn=by_us,
        _encoded=data,
        _header=header,
    )


def _load_jpeg(image: ImageFile.ImageFile, data: bytes) -> tuple[Image.Image, list[str]]:
    """Decode a JPEG file, and list libjpeg's warnings; a file without any is read only once."""
    mode = image.mode
    # The pixels are copied once, in the memory that strips take later.
    if math.prod(image.size) * 3 <= STRIP * _BESIDE_STRIP:
        sound = libjpeg.decode_sound(data, mode, image.size)
        if sound:
            return sound, []
    image.load()
    return image, libjpeg.warnings_of(data, mode)
