"""Make thumbnails, and embed them in a page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from PIL import Image

from .decoding import opened

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_JPEG = {"format": "JPEG", "quality": 80}
_PNG = {"format": "PNG", "optimize": True}


def data_uri(image: bytes | NDArray[np.uint8], side: int) -> str:
    """Encode an image file, or pixels [H, W, 3], as a data URI of at most `side` pixels a side.

    A smaller image is enlarged by a whole number, so that each pixel stays visible.

    Raises:
        BadImage: as `opened`.
    """
    small = thumbnail(image, side) if isinstance(image, bytes) else _scaled(image, side)
    factor = side // max(small.size)
    if factor > 1:
        size = (small.width * factor, small.height * factor)
        small = small.resize(size, Image.Resampling.NEAREST)
    return as_data_uri(small)


def as_data_uri(image: Image.Image) -> str:
    """Encode pixels as a data URI without metadata: JPEG, or PNG if that is shorter.

    An image of more than 256 colours is a JPEG: PNG's compression takes long, and rarely wins.
    """
    few_colours = image.getcolors(256) is not None
    small = min((_save(image, **how) for how in (_JPEG, *([_PNG] if few_colours else []))), key=len)
    kind = "png" if small.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(small).decode()}"


def thumbnail(data: bytes, side: int) -> Image.Image:
    """Decode an image file to at most `side` x `side` pixels; a large JPEG is quick.

    Raises:
        BadImage: as `opened`.
    """
    with opened(data, (2 * side, 2 * side)) as picture:
        size = _fitted(picture.size, side)
        return picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _scaled(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    image = Image.fromarray(pixels)
    return image.resize(_fitted(image.size, side), Image.Resampling.BICUBIC, reducing_gap=2.0)


def _fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Scale a size down so that neither side is above `side` pixels."""
    scale = min(1, side / max(size))
    width, height = (max(1, round(length * scale)) for length in size)
    return width, height


def _save(image: Image.Image, **how: object) -> bytes:
    file = io.BytesIO()
    # Drop the metadata, such as colour profile and EXIF.
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    bare.save(file, **how)  # type: ignore[arg-type]
    return file.getvalue()
