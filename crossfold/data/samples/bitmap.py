"""Encode images as BMP files, whose bytes no compression library influences."""

import struct

import numpy as np


def bitmap(pixels: np.ndarray) -> bytes:
    """Encode an image as 24-bit BMP (BITMAPINFOHEADER, no compression, bottom row first).

    Args:
        pixels: uint8 [height, width, 3], red first; 3 * width a multiple of 4, so that no row needs
            padding.
    """
    height, width, _ = pixels.shape
    body = pixels[::-1, :, ::-1].tobytes()
    body_start = 14 + 40
    return (
        struct.pack("<2sIHHI", b"BM", body_start + len(body), 0, 0, body_start)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(body), 2835, 2835, 0, 0)
        + body
    )
