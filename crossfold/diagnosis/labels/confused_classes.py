"""Find pairs of classes that are confused more than label errors and chance explain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crossfold.diagnosis.rounding import DIGITS, rounded_probabilities
from crossfold.records import Record

from .label_errors import estimated_errors

if TYPE_CHECKING:
    # Importing it imports torch, which readers of the record do without.
    from crossfold.diagnosis.evidence import Evidence

MAX_P_VALUE = 0.05
MAX_PAIRS = 100  # in the record


class ConfusedPair(Record):
    """Two classes confused out of fold, with the images of each and the mistakes of each direction.

    `first_as_second` counts images of the first class that were taken for the second. `expected`
    is the number of mistakes of both directions that label errors and evenly spread mistakes
    explain. `p_value` is adjusted by Holm for the number of pairs.
    """

    classes: tuple[str, str]
    num_images: tuple[int, int]
    first_as_second: int
    second_as_first: int
    expected: float
    p_value: float

    @property
    def num_mistakes(self) -> int:
        """The mistakes of both directions."""
        return self.first_as_second + self.second_as_first


class ConfusedClasses(Record):
    """The confused pairs, most mistakes beyond the expected number first; at most `MAX_PAIRS`."""

    num_pairs: int
    pairs: tuple[ConfusedPair, ...]


def find_confused_classes(evidence: Evidence) -> ConfusedClasses:
    """Test each pair of classes for more mistakes than expected.

    Expected are the pair's label errors, as confident learning estimates them, and its part of all
    other mistakes, if these were spread evenly over the pairs of images of two classes. The test is
    one-sided, of a Poisson count, and adjusted by Holm.
    """
    from scipy.special import gammainc

    from crossfold.evaluation.candidates.comparison import holm

    labels, probabilities = evidence.labels, rounded_probabilities(evidence.probabilities)
    num_classes = len(evidence.classes)
    mistakes = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(mistakes, (labels, probabilities.argmax(axis=1)), 1)
    np.fill_diagonal(mistakes, 0)
    wrong = estimated_errors(labels, probabilities)
    images = np.bincount(labels, minlength=num_classes)
    first, second = np.triu_indices(num_classes, 1)
    chances = (images[first] * images[second]).astype(np.float64)
    others = max(0.0, mistakes.sum() - wrong.sum())
    # A sum of one class's chances is 0 only if it is the only class with images.
    evenly = others * chances / max(chances.sum(), 1.0)
    expected = np.round(wrong[first, second] + wrong[second, first] + evenly, DIGITS)
    counts = mistakes[first, second] + mistakes[second, first]
    # P(X >= n) of a Poisson variable is the regularised incomplete gamma function.
    p_values = np.where(counts > 0, gammainc(np.maximum(counts, 1), expected), 1.0)
    adjusted = np.round(holm(p_values.tolist()), DIGITS)
    beyond = np.flatnonzero((adjusted < MAX_P_VALUE) & (counts > expected))
    ranked = beyond[np.argsort((expected - counts)[beyond], kind="stable")]
    pairs = [
        ConfusedPair(
            classes=(evidence.classes[i], evidence.classes[j]),
            num_images=(int(images[i]), int(images[j])),
            first_as_second=int(mistakes[i, j]),
            second_as_first=int(mistakes[j, i]),
            expected=float(expected[n]),
            p_value=float(adjusted[n]),
        )
        for n, i, j in zip(ranked, first[ranked], second[ranked], strict=True)
    ]
    return ConfusedClasses(num_pairs=len(pairs), pairs=tuple(pairs[:MAX_PAIRS]))
