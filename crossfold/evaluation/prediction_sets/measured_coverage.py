"""Measure on the test split what prediction sets promise."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfold.evaluation.metrics import wilson_interval
from crossfold.network.openvino_engine import Bytes, Classifier, Values
from crossfold.records import ClassCoverage, MeasuredCoverage, MeasuredSets

from .reference import Reference

COVERAGES = (0.9, 0.95)


class NoveltyCounter:
    """A network that counts the novel ones among the images that it predicts."""

    def __init__(self, network: Classifier, reference: Reference) -> None:
        self.preprocessing = network.preprocessing
        self.num_novel: int | None = None
        self._network, self._reference = network, reference

    def predict(self, images: Bytes) -> Values:
        """Predict probabilities as the network does."""
        features, probabilities = self._network.predict_with_features(images)
        flags = self._reference.is_novel(features)
        if flags is not None:
            self.num_novel = (self.num_novel or 0) + sum(flags)
        return probabilities


def measure(
    reference: Reference,
    labels: NDArray[np.int64],
    probabilities: NDArray[Any],
    num_novel: int | None,
) -> MeasuredSets:
    """Measure the sets of test images by their labels [N] and calibrated probabilities [N, K]."""
    levels = tuple(_at(coverage, reference, labels, probabilities) for coverage in COVERAGES)
    return MeasuredSets(num_images=len(labels), num_novel=num_novel, levels=levels)


def _at(
    coverage: float, reference: Reference, labels: NDArray[np.int64], probabilities: NDArray[Any]
) -> MeasuredCoverage:
    sets = reference.scores.sets(probabilities, coverage)
    hit, sizes = sets[np.arange(len(labels)), labels], sets.sum(axis=1)
    always = np.flatnonzero(reference.scores.always_inside(coverage))
    return MeasuredCoverage(
        coverage=coverage,
        measured=float(hit.mean()),
        interval=wilson_interval(int(hit.sum()), len(hit)),
        mean_size=float(sizes.mean()),
        num_single=int((sizes == 1).sum()),
        num_single_right=int(hit[sizes == 1].sum()),
        num_several=int((sizes > 1).sum()),
        num_empty=int((sizes == 0).sum()),
        worst=_worst(reference.classes, labels, hit),
        always_inside=tuple(reference.classes[i] for i in always),
    )


def _worst(
    classes: tuple[str, ...], labels: NDArray[np.int64], hit: NDArray[np.bool_]
) -> ClassCoverage:
    """Find the class with the lowest coverage, the first one of several."""
    found = [
        ClassCoverage(
            name=classes[label],
            num_images=int((labels == label).sum()),
            num_covered=int(hit[labels == label].sum()),
            interval=wilson_interval(int(hit[labels == label].sum()), int((labels == label).sum())),
        )
        for label in np.unique(labels)
    ]
    return min(found, key=lambda one: one.num_covered / one.num_images)
