"""Decode JPEG files by simplejpeg, which reports libjpeg's warnings. Pillow doesn't.

Only steps that check images have simplejpeg. Other steps decode the same pixels by Pillow.
"""

from __future__ import annotations

from PIL import Image

# Mode of the stored pixels, as Pillow names it -> simplejpeg's name. Not CMYK: Pillow inverts it.
_COLOURS = {"RGB": "RGB", "L": "GRAY"}


def decode_sound(data: bytes, mode: str, size: tuple[int, int]) -> Image.Image | None:
    """Decode a JPEG file, unless libjpeg warns or fails.

    Args:
        data: The encoded image.
        mode: Mode of the stored pixels, as Pillow names it.
        size: Width and height to decode to: those that Pillow decodes to.

    Returns:
        Pillow's pixels to the last bit; None if the file must be decoded by Pillow.
    """
    import simplejpeg

    if mode not in _COLOURS:
        return None
    width, height = size
    try:
        pixels = simplejpeg.decode_jpeg(
            data, _COLOURS[mode], min_height=height, min_width=width, strict=True
        )
    except ValueError:
        return None
    if pixels.shape[:2] != (height, width):
        return None
    return Image.fromarray(pixels if mode == "RGB" else pixels[..., 0])


def warnings_of(data: bytes, mode: str) -> list[str]:
    """List libjpeg's warnings about a decodable JPEG file.

    Decodes the file at an eighth of its size, which reads every coefficient. No decoder detects
    damaged bytes that happen to be valid codes.

    Args:
        data: The encoded image.
        mode: Mode of the stored pixels, as Pillow names it.
    """
    import simplejpeg

    colours = "CMYK" if mode == "CMYK" else "GRAY"
    small: dict[str, str | int] = {"colorspace": colours, "min_height": 1, "min_width": 1}
    try:
        simplejpeg.decode_jpeg(data, strict=True, **small)
    except ValueError as error:
        return [str(error)] if _decodes(data, small) else []
    return []


def _decodes(data: bytes, options: dict[str, str | int]) -> bool:
    """Check whether simplejpeg can decode a file if it ignores warnings."""
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(data, strict=False, **options)
    except ValueError:
        return False
    return True
