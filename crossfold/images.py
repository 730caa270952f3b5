"""Image files to pixels."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Image.init()
# An EPS file is a program, which Pillow hands to Ghostscript.
_FORMATS = sorted(Image.OPEN.keys() - {"EPS"})
# The formats of a photo in what Apple's cameras write; Pillow has no decoder for them.
_HEIC = {b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1"}
# What Pillow warns of is refused here: it warns from the very limit on.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Of EXIF that breaks off; whatever of it can be read counts.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")
# What turns an image upright, by its EXIF orientation; 1 is upright. Pillow's exif_transpose also
# writes the EXIF again, which can fail.
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(ValueError):  # noqa: N818
    """The bytes are no image that can be used; says why in a few words."""


@dataclass(frozen=True)
class Decoded:
    """An image, and what its file was before it became upright RGB of 8 bits a channel."""

    image: Image.Image
    format: str  # Pillow's name of the format
    mode: str  # Pillow's name of how the pixels were stored
    several: bool  # an animation, or more than one picture: `image` is the first
    turned: bool  # as its EXIF orientation says
    transparent: bool  # somewhere: there white shows
    deep: bool  # 16 bits a channel


def decode(data: bytes) -> Image.Image:
    """Decode an image file to RGB, turned as its EXIF orientation says.

    An animation gives its first frame; transparency is laid on white; 16 bits a channel become 8.

    Raises:
        BadImage: empty, not an image, corrupt, truncated, or too many pixels.
    """
    return examine(data).image


def examine(data: bytes) -> Decoded:
    """Decode as `decode` does, and say what there was to do.

    Raises:
        BadImage: as `decode`.
    """
    return _examine(data, None)


def thumbnail(data: bytes, side: int) -> Image.Image:
    """Decode as `decode` does, to at most `side` x `side` pixels; a large JPEG is quick.

    Raises:
        BadImage: as `decode`.
    """
    image = _examine(data, (2 * side, 2 * side)).image
    image.thumbnail((side, side))
    return image


def _examine(data: bytes, at_least: tuple[int, int] | None) -> Decoded:
    if not data:
        raise BadImage("the file is empty")
    try:
        return _decoded(data, at_least)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(_unidentified(data)) from None
    except Image.DecompressionBombError as error:
        raise BadImage(f"too large: {error}") from None
    except Exception as error:  # a decoder raises whatever its parser stumbles over
        raise BadImage(f"corrupt or truncated: {error}") from None


def _unidentified(data: bytes) -> str:
    if data[4:12] in _HEIC:
        return "HEIC, which cannot be read: save it as JPEG"
    return "corrupt, or not an image in a known format"


def _decoded(data: bytes, at_least: tuple[int, int] | None) -> Decoded:
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise BadImage(f"too large: {image.width} x {image.height} pixels, at most {limit} allowed")
    # Once it is loaded, an image has forgotten how its pixels are stored.
    image_format, mode = image.format or "", image.mode
    deep = mode.startswith("I") or any(";16" in str(tile.args) for tile in image.tile)
    if at_least:
        image.draft(None, at_least)
    image.load()
    turn = _to_upright(image)
    pixels, transparent = _to_rgb(image if turn is None else image.transpose(turn))
    # The last, since to know it of a GIF moves to its second frame.
    several = _has_several(image)
    return Decoded(pixels, image_format, mode, several, turn is not None, transparent, deep)


def _to_upright(image: Image.Image) -> Image.Transpose | None:
    """What turns the image upright, if its EXIF can be read and says that it is not."""
    try:
        return _TO_UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever the parser stumbles over; the pixels are sound
        return None


def _has_several(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the second is damaged; it is not used
        return True


def _to_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image as RGB, and whether white shows somewhere."""
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    transparent = False
    if image.has_transparency_data:
        image = image.convert("RGBA")
        transparent = image.getchannel("A").getextrema() != (255, 255)
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return (image if image.mode == "RGB" else image.convert("RGB")), transparent


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
