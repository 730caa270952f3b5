"""Compute the class activation maps of the test images that the report shows."""

import numpy as np

from crossfold.data.examples import Examples
from crossfold.imaging import decoding
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
    if not chosen:
        return ()
    preprocessing = network.preprocessing
    squares = {
        position: decoding.square(image, preprocessing.geometry)
        for position, image in table.test_files(chosen)
    }
    pixels = np.stack([squares[position] for position in chosen])
    predicted = [int(np.argmax(images.probabilities[position])) for position in chosen]
    return tuple(
        ActivationMap(
            position=position,
            crop=preprocessing.crop,
            values=tuple(map(tuple, values.astype(np.float64).round(_DIGITS).tolist())),
        )
        for position, values in zip(chosen, activation.maps(pixels, predicted), strict=True)
    )
