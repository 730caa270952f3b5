"""Read EXIF of an open image: how the camera was held, and its make and model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import ExifTags

if TYPE_CHECKING:
    from PIL import Image

MAX_CAMERA_LENGTH = 80  # characters; real makes and models have fewer


def orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; 1 (upright) if missing or unreadable."""
    if image.format == "JXL":
        return 1  # the format has its own orientation, and the decoder applies it
    if image.format == "HEIF":
        return int(image.info.get("original_orientation") or 1)
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF; the pixels are sound
        return 1


def camera(image: Image.Image) -> str:
    """Read the camera's make and model, of at most MAX_CAMERA_LENGTH printable characters.

    Empty if missing or unreadable. Serial numbers and places are not read.
    """
    try:
        exif = image.getexif()
        values = [exif.get(tag) for tag in (ExifTags.Base.Make, ExifTags.Base.Model)]
    except Exception:  # broken EXIF; the pixels are sound
        return ""
    # Anyone can write anything into EXIF, of any type and length.
    texts = [value[:MAX_CAMERA_LENGTH] for value in values if isinstance(value, str)]
    printable = ("".join(c if c.isprintable() else " " for c in text) for text in texts)
    return " ".join(" ".join(printable).split())[:MAX_CAMERA_LENGTH]
