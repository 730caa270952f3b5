"""A decoded picture, converted in strips: upright, RGB, 8 bits a channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .header import Header, open_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .preprocessing import SquareGeometry

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# Pixels that are turned and converted at a time.
STRIP = 2**20


@dataclass(frozen=True)
class Picture:
    """An open image: upright, in RGB with 8 bits a channel, converted in strips to save memory."""

    format: str  # of the file, as Pillow names it
    mode: str  # of the stored pixels, as Pillow names it
    depth: int  # bits of a stored value; more than 8 are scaled to 8
    turned: bool  # upright by the file's EXIF, or its format's own note
    camera: str  # make and model by EXIF; empty if unknown
    warnings: tuple[str, ...]  # of the decoder; libjpeg's only if asked for
    _stored: Image.Image
    _turn: Image.Transpose | None
    _encoded: bytes
    _header: Header

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
        header = Header.read(open_image(self._encoded), geometry.smallest_decoded)
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
        if self.format == "JPEG":  # Pillow calls one that holds several MPO
            return False
        # Opened again: the check moves a GIF to its second picture.
        try:
            return bool(getattr(open_image(self._encoded), "is_animated", False))
        except Exception:  # the second picture is damaged, and is not used
            return True

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
        if math.prod(self.size) <= STRIP:
            yield 0, self._one_strip
            return
        for top, part in self._parts(multiple):
            yield top, to_rgb(part, self.depth)

    @cached_property
    def _one_strip(self) -> Image.Image:
        """The whole of a picture that is small, kept because several functions take it."""
        upright = self._stored if self._turn is None else self._stored.transpose(self._turn)
        return to_rgb(upright, self.depth)

    def _parts(self, multiple: int) -> Iterator[tuple[int, Image.Image]]:
        """Yield the strips as they are stored, turned upright."""
        width, height = self.size
        num_rows = math.ceil(max(1, STRIP // width) / multiple) * multiple
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
            reduced = strip.reduce(factor) if factor > 1 else strip
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


def to_rgb(image: Image.Image, depth: int) -> Image.Image:
    """Convert stored pixels, with values of `depth` bits; transparency becomes white."""
    if image.mode.startswith("I"):
        largest = 2**depth - 1
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values * 255 + largest // 2) // largest).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
