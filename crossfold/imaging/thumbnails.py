"""Make thumbnails, and embed them in a page."""

from __future__ import annotations

import base64
import io

from PIL import Image

from .decoding import opened

_JPEG = {"format": "JPEG", "quality": 80}
_PNG = {"format": "PNG", "optimize": True}


def data_uri(encoded: bytes, side: int) -> str:
    """Encode an image file as a data URI, its longer side at most `side` pixels.

    A smaller image is enlarged by a whole number, so that each pixel stays visible.

    Raises:
        BadImage: as `opened`.
    """
    image = thumbnail(encoded, side)
    factor = side // max(image.size)
    if factor > 1:
        size = (image.width * factor, image.height * factor)
        image = image.resize(size, Image.Resampling.NEAREST)
    return as_data_uri(image)


def as_data_uri(image: Image.Image) -> str:
    """Encode pixels as a data URI: PNG or JPEG, whichever is shorter, without metadata."""
    small = min((_save(image, **how) for how in (_PNG, _JPEG)), key=len)
    kind = "png" if small.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(small).decode()}"


def thumbnail(data: bytes, side: int) -> Image.Image:
    """Decode an image file to at most `side` x `side` pixels; a large JPEG is quick.

    Raises:
        BadImage: as `opened`.
    """
    with opened(data, (2 * side, 2 * side)) as picture:
        scale = min(1, side / max(picture.size))
        width, height = (max(1, round(length * scale)) for length in picture.size)
        return picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


def _save(image: Image.Image, **how: object) -> bytes:
    file = io.BytesIO()
    # Drop the metadata, such as colour profile and EXIF.
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    bare.save(file, **how)  # type: ignore[arg-type]
    return file.getvalue()
