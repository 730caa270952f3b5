"""Decode image files within a memory bound: upright, RGB, 8 bits a channel.

Training, prediction, checks and pages all open images here, so they see the same pixels.
"""

from __future__ import annotations

import io
import math
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pillow_heif
import pylibjxl
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from crossfold.step.concurrency import Budget

from . import decoder_warnings
from .bit_depth import stored_bits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .preprocessing import SquareGeometry

# An encoded image that is larger is not even read.
MAX_FILE_SIZE = 256 * 2**20
# Bytes that one image may take while it is decoded, and that all together may.
MAX_MEMORY = 2**30
# Pillow refuses twice this number of pixels as soon as it has read the header. At 4 bytes a pixel,
# these fill MAX_MEMORY.
Image.MAX_IMAGE_PIXELS = MAX_MEMORY // 8

Image.init()
# One thread per image: images are decoded side by side already.
pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False)
pylibjxl.register_pillow()
# An EPS file is a program, which Pillow hands to Ghostscript.
_FORMATS = sorted(Image.OPEN.keys() - {"EPS"})
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
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# Pixels that are turned and converted at a time, and the bytes that each one takes meanwhile.
_STRIP = 2**20
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


@dataclass(frozen=True)
class Picture:
    """An open image: upright, in RGB with 8 bits a channel, converted in strips to save memory."""

    format: str  # of the file, as Pillow names it
    mode: str  # of the stored pixels, as Pillow names it
    depth: int  # bits of a stored value; more than 8 are scaled to 8
    turned: bool  # upright by the file's EXIF, or its format's own note
    warnings: tuple[str, ...]  # of the decoder
    _stored: Image.Image
    _turn: Image.Transpose | None
    _encoded: bytes
    _header: _Header

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the decoded picture, in pixels."""
        width, height = self._stored.size
        return (height, width) if self._swaps_sides else (width, height)

    @property
    def original_size(self) -> tuple[int, int]:
        """Width and height in the file's pixels, upright; `size` is less if it was reduced."""
        if not self.reduced:
            return self.size
        width, height = self._header.size
        return (height, width) if self._swaps_sides else (width, height)

    @property
    def reduced(self) -> bool:
        """True if the decoder reduced the picture, as only JPEG's can."""
        return self._header.decoded != self._header.size

    def serves(self, geometry: SquareGeometry) -> bool:
        """Tell whether `square` gives the pixels that the function `square` gives for the file."""
        header = _Header.read(_open(self._encoded), geometry.smallest_decoded)
        return header.decoded == self._header.decoded

    @property
    def _swaps_sides(self) -> bool:
        transpose = Image.Transpose
        return self._turn in {
            transpose.TRANSPOSE,
            transpose.ROTATE_270,
            transpose.TRANSVERSE,
            transpose.ROTATE_90,
        }

    @property
    def several(self) -> bool:
        """True if the file holds more than one picture; this is the first."""
        # Opened again: the check moves a GIF to its second picture.
        try:
            return bool(getattr(_open(self._encoded), "is_animated", False))
        except Exception:  # the second picture is damaged, and is not used
            return True

    def complaints(self) -> list[str]:
        """List the decoder's warnings, including libjpeg's (see `of_jpeg`)."""
        if self.format in {"JPEG", "MPO"}:
            return [*self.warnings, *decoder_warnings.of_jpeg(self._encoded, self.mode)]
        return list(self.warnings)

    @property
    def transparent(self) -> bool:
        """True if the picture is transparent somewhere."""
        if not self._stored.has_transparency_data:
            return False
        alphas = (part.convert("RGBA").getchannel("A") for _, part in self._parts(1))
        return any(alpha.getextrema() != (255, 255) for alpha in alphas)

    def strips(self, multiple: int = 1) -> Iterator[tuple[int, Image.Image]]:
        """Yield the picture in strips from top to bottom, each with the number of its first row.

        All but the last have a multiple of `multiple` rows.
        """
        for top, part in self._parts(multiple):
            yield top, _to_rgb(part, self.depth)

    def _parts(self, multiple: int) -> Iterator[tuple[int, Image.Image]]:
        """Yield the strips as they are stored, turned upright."""
        width, height = self.size
        num_rows = math.ceil(max(1, _STRIP // width) / multiple) * multiple
        for top in range(0, height, num_rows):
            part = self._stored.crop(self._box(top, min(top + num_rows, height)))
            yield top, part if self._turn is None else part.transpose(self._turn)

    def _box(self, top: int, bottom: int) -> tuple[int, int, int, int]:
        """Locate rows of the picture in the stored image."""
        width, height = self._stored.size
        transpose = Image.Transpose
        if self._turn in {transpose.FLIP_TOP_BOTTOM, transpose.ROTATE_180}:
            return 0, height - bottom, width, height - top
        if self._turn in {transpose.TRANSPOSE, transpose.ROTATE_270}:
            return top, 0, bottom, height
        if self._turn in {transpose.TRANSVERSE, transpose.ROTATE_90}:
            return width - bottom, 0, width - top, height
        return 0, top, width, bottom

    def square(self, geometry: SquareGeometry) -> NDArray[np.uint8]:
        """Cut the centre square, and scale it to the network's size S.

        Returns:
            uint8 [S, S, 3], equal to Pillow's `resize` with rows scaled before columns, and with
            `reducing_gap` if the network has one. For some tall images Pillow scales columns
            first, which changes a few values by 1.
        """
        side, resample = geometry.image_size, FILTERS[geometry.interpolation]
        length = min(self.size) * geometry.crop
        gap = geometry.reducing_gap
        factor = (int(length / side / gap) or 1) if gap else 1
        length /= factor
        width, height = (extent / factor for extent in self.size)
        left, top = (width - length) / 2, (height - length) / 2
        narrow = Image.new("RGB", (side, math.ceil(height)))
        for row, strip in self.strips(factor):
            reduced = strip.reduce(factor)
            box = (left, 0, left + length, reduced.height)
            size = (side, reduced.height)
            narrow.paste(reduced.resize(size, resample, box=box), (0, row // factor))
        square = narrow.resize((side, side), resample, box=(0, top, side, top + length))
        pixels: NDArray[Any] = np.asarray(square)
        return pixels

    def resize(
        self, size: tuple[int, int], resample: Image.Resampling, *, reducing_gap: float
    ) -> Image.Image:
        """Scale the picture as Pillow's `resize` does, to the last bit."""
        across, down = (
            int(ours / theirs / reducing_gap) or 1
            for ours, theirs in zip(self.size, size, strict=True)
        )
        width, height = self.size
        reduced = Image.new("RGB", (math.ceil(width / across), math.ceil(height / down)))
        for top, strip in self.strips(down):
            reduced.paste(strip.reduce((across, down)), (0, top // down))
        return reduced.resize(size, resample, box=(0, 0, width / across, height / down))


@contextmanager
def opened(data: bytes, at_least: tuple[int, int] | None = None) -> Iterator[Picture]:
    """Decode an image file, and reserve its share of the image memory during the block.

    Waits until that much memory is free. An animation gives its first frame; transparency becomes
    white. A thread must not open a second image inside the block.

    Args:
        data: The encoded image.
        at_least: Smallest size to which a JPEG may be decoded, which is fast; other formats are
            decoded whole.

    Raises:
        BadImage: empty, not an image, corrupt, truncated, or too large.
    """
    if not data:
        raise BadImage("the file is empty")
    with decoder_warnings.collected() as warnings:
        with _refused():
            image = _open(data)
            header = _Header.read(image, at_least)
            needed = _memory(image, header, len(data))
        with _budget.part(needed):
            with _refused():
                picture = _load(image, header, data, warnings)
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


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read an image's header."""
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    assert isinstance(image, ImageFile.ImageFile)
    return image


@dataclass(frozen=True)
class _Header:
    """Width and height of an image as its header has them, and of its pixels once decoded."""

    size: tuple[int, int]
    decoded: tuple[int, int]  # smaller if the decoder reduces it

    @classmethod
    def read(cls, image: ImageFile.ImageFile, at_least: tuple[int, int] | None) -> _Header:
        """Make a JPEG's decoder reduce it to no less than a size, if one is given."""
        size = image.size
        if at_least:
            image.draft(None, at_least)
        return cls(size, image.size)


def _memory(image: ImageFile.ImageFile, header: _Header, num_bytes: int) -> int:
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
    return needed + min(num_pixels, _STRIP) * _BESIDE_STRIP


def _load(image: ImageFile.ImageFile, header: _Header, data: bytes, warnings: list[str]) -> Picture:
    # Loading drops the format, the mode and the tiles.
    image_format, mode = image.format or "", image.mode
    is_16_bits = any(";16" in str(tile) for tile in image.tile)
    # Loading turns a TIFF, but a PNG may have its EXIF behind the pixels.
    orientation = _orientation(image) if image_format == "TIFF" else 1
    image.load()
    if image_format != "TIFF":
        orientation = _orientation(image)
    depth = 16 if is_16_bits else 8
    if image.mode.startswith(("I", "F")):
        depth = stored_bits(image, data)
        if not depth:
            raise BadImage(
                f"pixels of mode {image.mode} have no fixed range; save with 8 or 16 bits"
            )
    by_us = None if image_format in _TURNED_BY_DECODER else _TO_UPRIGHT.get(orientation)
    _to_rgb(image.crop((0, 0, 1, 1)), depth)  # fails here if it fails at all
    return Picture(
        format=image_format,
        mode=mode,
        depth=depth,
        turned=orientation in _TO_UPRIGHT,
        warnings=tuple(warnings),
        _stored=image,
        _turn=by_us,
        _encoded=data,
        _header=header,
    )


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; 1 (upright) if missing or unreadable."""
    if image.format == "JXL":
        return 1  # the format has its own orientation, and the decoder applies it
    if image.format == "HEIF":
        return int(image.info.get("original_orientation") or 1)
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF; the pixels are sound
        return 1


def _to_rgb(image: Image.Image, depth: int) -> Image.Image:
    if image.mode.startswith("I"):
        largest = 2**depth - 1
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values * 255 + largest // 2) // largest).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
