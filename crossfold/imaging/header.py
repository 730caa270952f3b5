"""Read an image file's header: its format, and the size at which it will be decoded."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pillow_heif
import pylibjxl
from PIL import Image, ImageFile

Image.init()
# One thread per image: images are decoded side by side already.
pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False)
pylibjxl.register_pillow()
# Pillow tries them in this order: the most frequent come first. An EPS file is a program, which
# Pillow hands to Ghostscript.
_FREQUENT = ("JPEG", "PNG")
_FORMATS = (*_FREQUENT, *sorted(Image.OPEN.keys() - {*_FREQUENT, "EPS"}))


def open_image(data: bytes) -> ImageFile.ImageFile:
    """Read an image's header."""
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    assert isinstance(image, ImageFile.ImageFile)
    return image


@dataclass(frozen=True)
class Header:
    """Width and height of an image as its header has them, and of its pixels once decoded."""

    size: tuple[int, int]
    decoded: tuple[int, int]  # smaller if the decoder reduces it

    @classmethod
    def read(cls, image: ImageFile.ImageFile, at_least: tuple[int, int] | None) -> Header:
        """Make a JPEG's decoder reduce it to no less than a size, if one is given."""
        size = image.size
        if at_least:
            image.draft(None, at_least)
        return cls(size, image.size)
