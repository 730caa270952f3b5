"""Choose the test images that the report explains, and compute their class activation maps."""

from collections.abc import Iterator, Sequence

import numpy as np

from crossfold.data.examples import TEST, Examples
from crossfold.imaging import decoding
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network.class_activation import ClassActivation, NoFeatureMapError
from crossfold.network.trained_network import Network
from crossfold.records import ActivationMap, PredictedImages

NUM_MISTAKES = 20
NUM_RIGHT = 10
_DIGITS = 3  # more than a picture shows


def confident_mistakes(images: PredictedImages) -> list[int]:
    """Find the mistakes with the highest probability of the predicted class, ties by path.

    Returns:
        At most NUM_MISTAKES positions in the test split.
    """
    return _by_confidence(images, right=False)[:NUM_MISTAKES]


def typical_right(images: PredictedImages) -> list[int]:
    """Find for each class the right prediction of median confidence, neither easy nor hard.

    Returns:
        At most NUM_RIGHT positions in the test split, in the order of the classes.
    """
    right = _by_confidence(images, right=True)
    of_classes = ([i for i in right if images.labels[i] == k] for k in range(len(images.classes)))
    return [found[len(found) // 2] for found in of_classes if found][:NUM_RIGHT]


def _by_confidence(images: PredictedImages, *, right: bool) -> list[int]:
    """List the right or the wrong predictions, the most confident first, ties by path."""
    probabilities = np.array(images.probabilities, np.float64)
    confidence = probabilities.max(axis=1)
    chosen = np.flatnonzero((probabilities.argmax(axis=1) == images.labels) == right)
    return sorted(chosen.tolist(), key=lambda i: (-confidence[i], images.paths[i]))


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
    for position, image in zip(chosen, table.images(TEST, chosen), strict=True):
        pixels = decoding.square(image, preprocessing)[np.newaxis]
        (values,) = activation.maps(pixels, [int(np.argmax(images.probabilities[position]))])
        rows = tuple(map(tuple, values.astype(np.float64).round(_DIGITS).tolist()))
        yield ActivationMap(position=position, crop=preprocessing.crop, values=rows)
