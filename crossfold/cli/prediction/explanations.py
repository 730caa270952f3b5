"""Write a picture for each prediction: the image beside its class activation map.

torch and matplotlib take seconds to import, so `predict` imports this module only for `--explain`.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from crossfold.errors import UserError
from crossfold.imaging import decoding
from crossfold.network.class_activation import ClassActivation
from crossfold.predict.model import Prediction, load_network
from crossfold.report.overlay import overlay
from crossfold.step.files import replaced_whole

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

MIN_SIDE = 224  # pixels, of each half
_MAX_BYTES = 80  # of a name's part; a file's name has at most 255

WritePicture = Callable[[int, str, Prediction], None]


def picture_writer(version: "ModelVersion", folder: Path, num_images: int) -> WritePicture:
    """Load a version with torch, create the folder, and return the function that writes a picture.

    The function takes the image's number from 1, its path and its prediction. The file's name has
    the number, the name of the image, the predicted class and its probability.

    Raises:
        UserError: the network gives no class activation maps; the folder is not created then.
    """
    network = load_network(version)
    activation = ClassActivation(network)
    geometry = network.preprocessing.geometry
    side = max(geometry.image_size, MIN_SIDE)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--explain {folder}: no folder can be made there: {error.strerror}"
        ) from None
    num_digits = len(str(num_images))

    def write(number: int, path: str, prediction: Prediction) -> None:
        assert prediction.label is not None
        image = decoding.read_image(path)
        pixels = decoding.square(image, geometry)
        label = network.classes.index(prediction.label)
        (values,) = activation.maps(pixels[np.newaxis], [label])
        shown = decoding.square(image, replace(geometry, image_size=side))
        name = f"{number:0{num_digits}}_{_picture_name(path, prediction)}"
        _write_png(folder / name, np.hstack([shown, np.asarray(overlay(shown, values))]))

    return write


def _picture_name(path: str, prediction: Prediction) -> str:
    ((label, probability),) = prediction.most_likely(1)
    return f"{_short(Path(path).stem)}_{_short(label)}_{probability:.4f}.png"


def _short(text: str) -> str:
    """Cut a text at the end of a character, to at most _MAX_BYTES bytes."""
    return os.fsencode(text)[:_MAX_BYTES].decode("utf-8", "ignore")


def _write_png(path: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    try:
        with replaced_whole(path) as part:
            Image.fromarray(pixels).save(part, "PNG")
    except OSError as error:
        raise UserError(f"--explain {path.parent}: cannot be written: {error.strerror}") from None
