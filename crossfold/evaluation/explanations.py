"""Compute the class activation maps of the test images that the report shows."""

from collections.abc import Iterator, Sequence

import numpy as np

from crossfold.data.examples import Examples
from crossfold.imaging import decoding
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network.class_activation import ClassActivation, NoFeatureMapError
from crossfold.network.trained_network import Network
from crossfold.records import ActivationMap, PredictedImages

from .shown_images import confident_mistakes, typical_right

_DIGITS = 3  # more than a picture shows


def activation_maps(
    network: Network, table: Examples, images: PredictedImages
) -> tuple[ActivationMap, ...]:
    """Compute the maps of the report's test images for their predicted classes.

    Returns:
        None of them if the network has no feature map.
    """
    try:
        activation = ClassActivation(network)
    except NoFeatureMapError:
        return ()
    chosen = [*confident_mistakes(images), *typical_right(images)]
    return tuple(_maps(activation, network.preprocessing, table, images, chosen))


def _maps(
    activation: ClassActivation,
    preprocessing: Preprocessing,
    table: Examples,
    images: PredictedImages,
    chosen: Sequence[int],
) -> Iterator[ActivationMap]:
    # One image at a time: an image's map depends on no other, and memory stays that of one.
    for position, image in zip(chosen, table.test_files(chosen), strict=True):
        pixels = decoding.square(image, preprocessing.geometry)[np.newaxis]
        (values,) = activation.maps(pixels, [int(np.argmax(images.probabilities[position]))])
        rows = tuple(map(tuple, values.astype(np.float64).round(_DIGITS).tolist()))
        yield ActivationMap(position=position, crop=preprocessing.crop, values=rows)
