"""Remark on usable images that may surprise, such as greyscale, turned or very large ones."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from .near_duplicates import is_flat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .picture import Picture

# Pixels; Pillow takes 4 bytes for each, so 128 MiB.
LARGE = 2**25
MAX_SHAPE = 2  # of the longer side to the shorter


class Kind(NamedTuple):
    """A kind of remark: its name, and its meaning for training."""

    title: str
    meaning: str


# In the order in which they are reported.
KINDS = {
    "mislabelled": Kind(
        "named as another format",
        "The content counts. Another program may go by the name, and fail.",
    ),
    "damaged": Kind(
        "the decoder complained",
        "Part of the picture may be missing or wrong, or only a note on its camera is. Look.",
    ),
    "several": Kind(
        "more than one picture in the file", "An animation or a series: the first picture is used."
    ),
    "turned": Kind(
        "turned as EXIF says",
        "The camera noted how it was held. The image is turned upright by that, in training as in "
        "prediction. Look whether they are upright here: if not, the note is wrong.",
    ),
    "cmyk": Kind("CMYK", "Made for print. It becomes RGB without a colour profile: colours shift."),
    "grey": Kind(
        "greyscale",
        "Their one channel is taken three times. If only some classes have such images, the model "
        "may learn that instead of what they show.",
    ),
    "transparent": Kind("transparent", "Laid on white."),
    "deep": Kind(
        "more than 8 bits a channel",
        "Scaled to 8 bits, from the range of 8, 12 or 16 bits that the largest value of the image "
        "is in if the file does not declare its bits. What was dark and fine may be lost.",
    ),
    "large": Kind(
        "very large",
        "Most take at least 128 MiB of memory while they are decoded, except JPEGs, which are "
        "decoded reduced.",
    ),
    "small": Kind(
        "smaller than the network's image size",
        "They are enlarged: more pixels, and no more detail.",
    ),
    "long": Kind(
        "long and narrow", "The centre square is all that is used, less than half of such an image."
    ),
    "flat": Kind("hardly any contrast", "Nearly one colour. They are not compared with others."),
}

# Photos with a second picture for depth or brightness are JPEG to everyone but Pillow.
_SAME_FORMAT = {"MPO": "JPEG", "DIB": "BMP"}


def remarks(
    path: str,
    picture: Picture,
    small: Image.Image,
    sketch: NDArray[np.uint8],
    image_size: int | None,
) -> dict[str, str]:
    """List the remarks on an image.

    Args:
        path: Path of the file, for its suffix.
        picture: The image, opened `with_warnings`.
        small: The image scaled by `near_duplicates.shrink`.
        sketch: The same in grey, uint8 [32, 32].
        image_size: Side of the square that images are scaled to, if known.

    Returns:
        Kind of remark -> a few words on this image.
    """
    return dict(_remarks(path, picture, small, sketch, image_size))


def _remarks(
    path: str,
    picture: Picture,
    small: Image.Image,
    sketch: NDArray[np.uint8],
    image_size: int | None,
) -> Iterator[tuple[str, str]]:
    width, height = picture.original_size
    size = f"{width} x {height} pixels"
    suffix = PurePosixPath(path).suffix.lower()
    named = Image.registered_extensions().get(suffix)
    found = _SAME_FORMAT.get(picture.format, picture.format)
    if named and _SAME_FORMAT.get(named, named) != found:
        yield "mislabelled", f"{found}, not {named}"
    if picture.warnings:
        yield "damaged", "; ".join(picture.warnings)
    if picture.several:
        yield "several", picture.format
    if picture.turned:
        yield "turned", size
    if picture.mode == "CMYK":
        yield "cmyk", picture.format
    pixels = np.asarray(small)
    if (pixels == pixels[..., :1]).all():
        yield "grey", f"stored as {picture.mode}"
    if picture.transparent:
        yield "transparent", picture.format
    if picture.depth > 8 or picture.mode.startswith("I"):
        yield "deep", f"{picture.format}, values of {picture.depth} bits"
    if width * height > LARGE:
        yield "large", size
    if image_size is not None and min(width, height) < image_size:
        yield "small", size
    if max(width, height) > MAX_SHAPE * min(width, height):
        yield "long", size
    if is_flat(sketch):
        yield "flat", size
