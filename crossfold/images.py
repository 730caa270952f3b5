"""Image files to pixels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Image.init()
# An EPS file is a program, which Pillow hands to Ghostscript.
_FORMATS = sorted(Image.OPEN.keys() - {"EPS"})


class BadImage(ValueError):  # noqa: N818
    """The bytes are no image that can be used; says why in a few words."""


def decode(data: bytes) -> Image.Image:
    """Decode an image file to RGB, turned as its EXIF orientation says.

    An animation gives its first frame; transparency is laid on white; 16 bits a channel become 8.

    Raises:
        BadImage: empty, not an image, corrupt, truncated, or too many pixels.
    """
    if not data:
        raise BadImage("the file is empty")
    try:
        return _to_rgb(_open(data))
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("corrupt, or not an image in a known format") from None
    except Image.DecompressionBombError as error:
        raise BadImage(f"too large: {error}") from None
    except Exception as error:  # a decoder raises whatever its parser stumbles over
        raise BadImage(f"corrupt or truncated: {error}") from None


def _open(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise BadImage(f"too large: {image.width} x {image.height} pixels, at most {limit} allowed")
    image.load()
    return ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale greyscale of 16 bits, which Pillow's own conversion would clip."""
    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise BadImage(f"pixels of mode {image.mode} have no fixed range; save with 8 or 16 bits")
    return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def to_square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Scale the shorter side to `size`, bilinearly, and cut the centre square, in one pass.

    Returns:
        uint8 [size, size, 3].
    """
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    square = image.resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    pixels: NDArray[Any] = np.asarray(square)
    return pixels
