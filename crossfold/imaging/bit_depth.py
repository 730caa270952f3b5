"""Determine how many bits a greyscale value has that is stored in 16 or 32."""

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin


def stored_bits(image: Image.Image, data: bytes) -> int:
    """Determine the bits of an image's values; 0 if they have no fixed range.

    The file may declare them. Otherwise they are 8, 12 or 16, by its largest value. No other number
    is guessed: a dark image from a camera of 12 bits would fit into 10, and all images of that
    camera must be scaled alike. Only the file decides, so an image is the same among others and
    alone.

    Args:
        image: The loaded image, of a mode that starts with I or F.
        data: Its file.
    """
    lowest, largest = np.ravel(image.getextrema())
    if image.mode == "F" or lowest < 0 or largest > 65535:
        return 0
    bits, largest = _declared(image, data, int(largest))
    if bits and largest < 2**bits:
        return bits
    return next(bits for bits in (8, 12, 16) if largest < 2**bits)


def _declared(image: Image.Image, data: bytes, largest: int) -> tuple[int, int]:
    """Read the declared bits of a value (0 if undeclared) and the largest possible value."""
    if isinstance(image, PngImagePlugin.PngImageFile):
        return _significant_bits(data), largest
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,)))
        greatest = [tags.get(tag) for tag in (281, 341)]  # MaxSampleValue, SMaxSampleValue
        largest = max(largest, *(int(np.max(value)) for value in greatest if value), 0)
        return (bits if bits < 16 else 0), min(largest, 65535)
    return 0, largest


def _significant_bits(png: bytes) -> int:
    """Read a greyscale PNG's sBIT chunk; 0 if missing (PNG 1.2, 4.2.4.1)."""
    start = 8
    while png[start + 4 : start + 8] not in (b"IDAT", b""):
        if png[start + 4 : start + 8] == b"sBIT":
            return png[start + 8]
        start += 12 + int.from_bytes(png[start : start + 4], "big")
    return 0
