"""Tell images that are far from every training image, by the input of a frozen network's head.

The distance is 1 minus the cosine between the image's features and those of the nearest reference,
both minus the mean of the references: Y. Sun, Y. Ming, X. Zhu and Y. Li, "Out-of-distribution
detection with deep nearest neighbors", ICML 2022, with one neighbour and centred features.
"""

from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

# Shared evenly by the classes; each has at least one. Bounds a version's size and a prediction's
# time: with 1,280 features, 5 MB.
MAX_REFERENCES = 1000
KNOWN_SHARE = 0.99  # of the training images, in cross-validation, is not novel
_DIGITS = 6  # the next ones may depend on the machine

Values = NDArray[Any]


@dataclass(frozen=True)
class Novelty:
    """Features of training images, float32 [R, C], and the distance above which one is novel."""

    references: Values
    max_distance: float

    @classmethod
    def fit(cls, features: Values, labels: Values, folds: Values) -> Self:
        """Choose the references, and the distance by those of each fold to the other folds.

        Args:
            features: The input of the head, float32 [N, C].
            labels: int [N].
            folds: int [N].
        """
        distances = np.empty(len(labels))
        for fold in np.unique(folds):
            inside = folds == fold
            others = cls(_chosen(features[~inside], labels[~inside]), 0)
            distances[inside] = others.distances(features[inside])
        # The quantile that the next of n + 1 exchangeable distances exceeds in 1 % of draws.
        rank = min(ceil(KNOWN_SHARE * (len(distances) + 1)), len(distances))
        return cls(_chosen(features, labels), float(np.sort(distances)[rank - 1]))

    def is_novel(self, features: Values) -> NDArray[np.bool_]:
        """Tell which images are novel [N] by the input of the head [N, C, ...]."""
        novel: NDArray[np.bool_] = self.distances(features) > self.max_distance
        return novel

    def distances(self, features: Values) -> NDArray[np.float64]:
        """Measure the distance to the nearest reference [N], from the input of the head."""
        means = features.reshape(*features.shape[:2], -1).mean(axis=2)
        # One image at a time: the threads of a matrix product wait for each other.
        cosines = [
            np.vecdot(self._directions, image).max() for image in _unit_length(means - self._mean)
        ]
        distances: NDArray[np.float64] = 1 - np.array(cosines, np.float64)
        return distances.round(_DIGITS)

    @cached_property
    def _mean(self) -> Values:
        mean: Values = self.references.mean(axis=0)
        return mean

    @cached_property
    def _directions(self) -> Values:
        return _unit_length(self.references - self._mean)


def _chosen(features: Values, labels: Values) -> Values:
    """Choose the references: as many of each class, evenly in the order of the images."""
    of_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    most = max(1, MAX_REFERENCES // len(of_class))
    rows = [members[_evenly(min(len(members), most), len(members))] for members in of_class]
    return np.ascontiguousarray(features[np.concatenate(rows)], np.float32)


def _evenly(count: int, total: int) -> NDArray[np.int64]:
    return np.arange(count) * total // count


def _unit_length(values: Values) -> Values:
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    unit: Values = values / np.where(lengths > 0, lengths, 1)
    return unit
