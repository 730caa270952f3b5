"""Hash an image's content, so that copies of it are known whatever their file's name and format."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from .decoding import opened

if TYPE_CHECKING:
    from .picture import Picture


def content_hash(picture: Picture) -> str:
    """Hash the original size and the decoded RGB pixels with SHA-256, in hexadecimal.

    Copies in other formats have the same hash, unless JPEG's decoder reduced one of them.
    """
    width, height = picture.original_size
    pixels = hashlib.sha256(f"{width}x{height}:".encode())
    for _, strip in picture.strips():
        pixels.update(strip.tobytes())
    return pixels.hexdigest()


def whole_hash(data: bytes) -> str:
    """Hash all pixels of an image file, none of them reduced; see `content_hash`.

    Raises:
        BadImage: as `decoding.opened`.
    """
    with opened(data) as picture:
        return content_hash(picture)
