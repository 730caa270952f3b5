"""Draw class activation maps over their images."""

from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Perceptually uniform, and its lightness rises all the way: it reads the same in grey.
_COLOURS = matplotlib.colormaps["inferno"]
_OPACITY = 0.65  # a white sky stays darker than the evidence


def overlay(
    pixels: np.ndarray[Any, np.dtype[np.uint8]], activation: NDArray[np.float32]
) -> Image.Image:
    """Lay a map over its image, which turns grey so that every colour is the map's.

    Args:
        pixels: uint8 [S, S, 3].
        activation: float32 [h, w] from 0 to 1, scaled smoothly to the image's size.
    """
    image = Image.fromarray(pixels)
    scaled = Image.fromarray(activation).resize(image.size, Image.Resampling.BICUBIC)
    colours = Image.fromarray(_COLOURS(np.asarray(scaled), bytes=True)[..., :3])
    return Image.blend(image.convert("L").convert("RGB"), colours, _OPACITY)
