"""Weight classes in the loss; imports no torch, so that the diagnosis can use it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfold.records import ClassWeights


def class_weights(
    labels: NDArray[Any], num_classes: int, kind: ClassWeights
) -> NDArray[np.float64] | None:
    """Compute the weight of each class in the loss, float64 [num_classes]; None without weights.

    Balanced, an image of class k weighs n / (K n_k): of n images, n_k are of class k, and K is the
    number of classes that they have. So every class weighs the same, and the mean over the images
    is 1. A class without images weighs 0. G. King and L. Zeng, "Logistic regression in rare events
    data", Political Analysis 9 (2001), pages 137-163, section 4.2.
    """
    if kind is ClassWeights.NONE:
        return None
    sizes = np.bincount(labels, minlength=num_classes)
    present = sizes > 0
    weights = np.zeros(num_classes)
    weights[present] = len(labels) / (present.sum() * sizes[present])
    return weights
