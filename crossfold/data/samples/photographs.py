"""Write the sample of photographs: squares of nine pictures, one class a picture.

Seven pictures are CC0 or in the public domain, from the wheel of scikit-image, which is fetched for
them: an astronaut and galaxies (NASA), a cat (Stéfan van der Walt), a cup of coffee (Rachel
Michetti), a retina (Häggström), a rocket (SpaceX), stained tissue (no known restrictions). Two are
CC BY 2.0, from scikit-learn: a temple (danielbuechele), a flower (vultilion).

No two squares share a pixel, but all squares of a class show one scene. So scores on this sample
compare networks and settings; they don't tell how well a model does on new scenes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crossfold.data.samples.package_index import install_wheel
from crossfold.imaging.decoding import opened

from .bitmap import bitmap

if TYPE_CHECKING:
    from collections.abc import Iterator

SCIKIT_IMAGE = (
    "scikit-image==0.26.0",
    "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
)  # the wheel and its SHA-256
_OF_SCIKIT_IMAGE = {
    "astronaut": "astronaut.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "galaxies": "hubble_deep_field.jpg",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
    "tissue": "ihc.png",
}
_OF_SCIKIT_LEARN = {"flower": "flower.jpg", "temple": "china.jpg"}
# The smallest picture, 451 x 300 pixels, is just large enough for these.
_ROWS, _COLUMNS, _SIDE = 5, 7, 60


def write_photographs(folder: Path) -> str:
    """Write a subfolder of images for each class.

    Returns:
        A description of the images.

    Raises:
        UserError: scikit-image cannot be fetched.
    """
    num_classes = 0
    for name, picture in _pictures():
        num_classes += 1
        (folder / name).mkdir()
        for index, square in enumerate(_squares(picture)):
            (folder / name / f"{index:02d}.bmp").write_bytes(bitmap(square))
    return f"{num_classes * _ROWS * _COLUMNS} squares of {num_classes} photographs written"


def _pictures() -> Iterator[tuple[str, np.ndarray]]:
    from sklearn.datasets import load_sample_image

    with tempfile.TemporaryDirectory() as name:
        install_wheel(*SCIKIT_IMAGE, Path(name))
        for label, file in _OF_SCIKIT_IMAGE.items():
            with opened((Path(name) / "skimage" / "data" / file).read_bytes()) as picture:
                yield label, np.vstack([np.asarray(strip) for _, strip in picture.strips()])
    for label, file in _OF_SCIKIT_LEARN.items():
        yield label, load_sample_image(file)


def _squares(picture: np.ndarray) -> Iterator[np.ndarray]:
    """Cut a square from the middle of each cell of a grid over the picture."""
    height, width = picture.shape[0] // _ROWS, picture.shape[1] // _COLUMNS
    for row in range(_ROWS):
        for column in range(_COLUMNS):
            top = row * height + (height - _SIDE) // 2
            left = column * width + (width - _SIDE) // 2
            yield picture[top : top + _SIDE, left : left + _SIDE]
