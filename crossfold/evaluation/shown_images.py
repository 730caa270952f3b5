"""Choose the test images that the report shows: mistakes, and right ones to compare them with."""

import numpy as np

from crossfold.records import PredictedImages

NUM_MISTAKES = 20
NUM_RIGHT = 10


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
