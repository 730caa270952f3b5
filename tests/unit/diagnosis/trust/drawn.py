"""Made-up features, of which the truth is known."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Numbers = NDArray[np.int64]


def drawn(num_images: int, distance: float, seed: int = 0) -> tuple[Values, Numbers, Numbers]:
    """Draw features of three classes at a distance, in 40 channels, labels and five folds."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_images) % 3
    features = rng.normal(size=(num_images, 40))
    features[np.arange(num_images), labels] += distance
    return features, labels, rng.permutation(num_images) % 5


def hashes(groups: NDArray[Any]) -> tuple[str, ...]:
    """Make up a content hash for each image, in the order of the groups."""
    return tuple(f"{group:06}-{image:06}" for image, group in enumerate(groups))
