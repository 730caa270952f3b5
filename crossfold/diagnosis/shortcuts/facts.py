"""Facts of images that don't need a look at the object: file, dimensions, camera, colours."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossfold.data.examples import BATCH_SIZE, TRAIN, Pixels
from crossfold.imaging import decoding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crossfold.data.examples import Examples
    from crossfold.imaging.preprocessing import SquareGeometry

Values = NDArray[np.float64]
MAX_NAMES = 32  # cameras, or formats, with a column; the others share the value 0 everywhere
RING = 16  # the border is this part of the square's side

FILE, DIMENSIONS, CAMERA, COLOUR, BORDER = "file", "dimensions", "camera", "colour", "border"


def read_facts(
    table: Examples, rows: NDArray[np.int64], geometry: SquareGeometry
) -> dict[str, Values]:
    """Read some training images' facts.

    Args:
        table: the table of examples.
        rows: the positions of N images among the training images, ascending.
        geometry: the square that the network sees.

    Returns:
        float64 [N, facts] of each set: file (bytes, bytes a pixel, format), dimensions (width,
        height, aspect), camera, colour (mean and spread of R, G and B over the square) and border
        (the same of its top, bottom, left and right edge).
    """

    def column(name: str) -> NDArray[Any]:
        return table.column(name, TRAIN)[rows]

    num_bytes, width, height = (
        column(name).astype(np.float64) for name in ("num_bytes", "width", "height")
    )
    colour, border = _square_facts(table, rows, geometry)
    return {
        FILE: np.column_stack([num_bytes, num_bytes / (width * height), _names(column("format"))]),
        DIMENSIONS: np.column_stack([width, height, width / height]),
        CAMERA: _names(column("camera")),
        COLOUR: colour,
        BORDER: border,
    }


def _names(names: NDArray[np.object_]) -> Values:
    """Give each of the most frequent names a column, 1 where an image has it, [N, names]."""
    counts = Counter(names)
    frequent = sorted(counts, key=lambda name: (-counts[name], name))[:MAX_NAMES]
    return np.array([[name == one for one in frequent] for name in names], np.float64)


def _square_facts(
    table: Examples, rows: NDArray[np.int64], geometry: SquareGeometry
) -> tuple[Values, Values]:
    """Summarise the squares, [N, 6], and their four edges, [N, 24]."""
    colour, border = [], []
    for square in _squares(table, rows, geometry):
        depth = max(1, len(square) // RING)
        edges = square[:depth], square[-depth:], square[:, :depth], square[:, -depth:]
        colour.append(_mean_and_spread(square))
        border.append(np.concatenate([_mean_and_spread(edge) for edge in edges]))
    return np.array(colour), np.array(border)


def _squares(
    table: Examples, rows: NDArray[np.int64], geometry: SquareGeometry
) -> Iterator[Pixels]:
    """Yield the images' squares as a stream, uint8 [S, S, 3] each."""
    wanted, start = set(rows.tolist()), 0
    for _, images, _ in table.batches(TRAIN, BATCH_SIZE, geometry):
        for number, image in enumerate(images, start):
            if number in wanted:
                yield decoding.square(image, geometry) if isinstance(image, bytes) else image
        start += len(images)


def _mean_and_spread(pixels: Pixels) -> Values:
    """Compute mean and standard deviation of each channel, [6].

    Sums of integers are exact, so the values are the same on every processor.
    """
    histogram = Image.fromarray(np.ascontiguousarray(pixels)).histogram()
    counts = np.array(histogram, np.int64).reshape(3, 256)
    number, levels = pixels.size // 3, np.arange(256)
    sums, squares = counts @ levels, counts @ levels**2
    return np.concatenate([sums / number, np.sqrt(number * squares - sums**2) / number])
