"""Compute the 95 % interval of the macro F1 difference of two classifiers on the same images.

It holds for few images too, and for classifiers that hardly differ: docs/decisions/022-gate.md.
"""

from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from .metrics import CONFIDENCE, ratio

NUM_DRAWS = 2000
_MOST_DRAWN = 2**22  # weights drawn at a time, to bound memory
_MOST_TIMES = 1024  # `enough_images` gives up beyond this multiple of the images

Values = NDArray[Any]


class Outcomes(NamedTuple):
    """Images grouped by class and by the predictions of two classifiers, int64 [M] each.

    `counts[i]` is the number of images in group i.
    """

    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    other_predictions: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def tally(
        cls, labels: NDArray[Any], predictions: NDArray[Any], other_predictions: NDArray[Any]
    ) -> "Outcomes":
        """Group and count images; labels and both predictions are int [N]."""
        rows = np.stack([labels, predictions, other_predictions]).astype(np.int64)
        (of_class, one, other), counts = np.unique(rows, axis=1, return_counts=True)
        return cls(of_class, one, other, counts)

    def swapped(self) -> "Outcomes":
        """Swap the two classifiers."""
        return self._replace(predictions=self.other_predictions, other_predictions=self.predictions)


def macro_f1_interval(outcomes: Outcomes, num_classes: int) -> tuple[float, float]:
    """Compute the 95 % interval of the first classifier's macro F1 minus the other's."""
    return (
        lower_limit(outcomes, num_classes),
        -lower_limit(outcomes.swapped(), num_classes),
    )


def lower_limit(
    outcomes: Outcomes,
    num_classes: int,
    *,
    times_images: float = 1,
    seed: int = 0,
) -> float:
    """Compute the lower end of `macro_f1_interval`; in 2.5 % of cases the truth lies below it.

    The Bayesian bootstrap weights the images at random within each class, like the stratified test
    split: D. B. Rubin, "The Bayesian bootstrap", Annals of Statistics 9 (1981), pages 130-134. It
    knows only observed outcomes, so each class gets one more image: in the class where it costs the
    most, an image that only the other classifier has right; in every other class, an image that
    both have right. If only one class differs, this is the exact limit of C. J. Clopper and E. S.
    Pearson, "The use of confidence or fiducial limits", Biometrika 26 (1934), pages 404-413. For
    several classes, one image with the largest weight: M. P. Fay and E. J. Feuer, "Confidence
    intervals for directly standardized rates", Statistics in Medicine 16 (1997), pages 791-801. For
    pairs: M. P. Fay and K. Lumbard, "Confidence intervals for difference in proportions for matched
    pairs compatible with exact McNemar's or sign tests", Statistics in Medicine 40 (2021), pages
    1147-1159.

    `times_images` multiplies the number of images, in the same shares.
    """
    support = np.bincount(outcomes.labels, outcomes.counts, num_classes)
    labels, predictions, others = _with_unseen(outcomes, num_classes)
    shapes = np.ones(len(labels))
    shapes[: len(outcomes.counts)] = outcomes.counts * times_images
    of_label = _one_hot(labels, num_classes)

    rng = np.random.default_rng(seed)
    size = max(1, _MOST_DRAWN // len(shapes))
    differences = []
    for start in range(0, NUM_DRAWS, size):
        shape = (len(shapes), min(size, NUM_DRAWS - start))
        weights = rng.standard_gamma(shapes[:, None], shape)
        weights *= ratio(support[:, None], of_label @ weights)[labels]
        one, other = (
            ratio(
                2 * (of_label @ (weights * (predicted == labels)[:, None])),
                _one_hot(predicted, num_classes) @ weights + support[:, None],
            ).mean(axis=0)
            for predicted in (predictions, others)
        )
        differences.append(one - other)
    limit = float(np.quantile(np.concatenate(differences), (1 - CONFIDENCE) / 2))
    # The added images move extreme differences towards 0.
    return min(limit, _macro_f1(outcomes, num_classes) - _macro_f1(outcomes.swapped(), num_classes))


def enough_images(outcomes: Outcomes, num_classes: int, least: float) -> int | None:
    """Estimate how many images, in the same shares, raise the lower limit to `least`.

    Returns:
        The number, rounded up to two digits; None if _MOST_TIMES the images aren't enough.
    """

    def is_enough(times: float) -> bool:
        return lower_limit(outcomes, num_classes, times_images=times) >= least

    times = 1.0
    while not is_enough(times):
        times *= 2
        if times > _MOST_TIMES:
            return None
    too_few = times / 2
    while times / too_few > 1.02:  # finer than two digits
        middle = (times * too_few) ** 0.5
        times, too_few = (middle, too_few) if is_enough(middle) else (times, middle)
    number = ceil(times * int(outcomes.counts.sum()))
    unit = int(10 ** max(0, len(str(number)) - 2))
    return ceil(number / unit) * unit


def _with_unseen(
    outcomes: Outcomes, num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """List the groups' labels and both predictions, and append one more image of each class."""
    present = np.unique(outcomes.labels)
    label, mistaken_for = _worst_mistake(outcomes, num_classes)
    mistaken = np.where(present == label, mistaken_for, present)
    added = (present, mistaken, present)
    labels, predictions, others = (
        np.concatenate(parts) for parts in zip(outcomes[:3], added, strict=True)
    )
    return labels, predictions, others


def _worst_mistake(outcomes: Outcomes, num_classes: int) -> tuple[int, int]:
    """Find the additional image that lowers the difference the most: its label and prediction.

    Only the other classifier has that image right.
    """
    support = np.bincount(outcomes.labels, outcomes.counts, num_classes)
    hits, total = _hits_and_total(outcomes, num_classes)
    other_hits, other_total = _hits_and_total(outcomes.swapped(), num_classes)
    lost = ratio(2 * hits, total + 1) - ratio(2 * hits, total)
    gained = ratio(2 * (other_hits + 1), other_total + 2) - ratio(2 * other_hits, other_total)
    change = (lost - gained)[:, None] + lost
    change[support == 0] = np.inf
    np.fill_diagonal(change, np.inf)
    label, mistaken_for = np.unravel_index(change.argmin(), change.shape)
    return int(label), int(mistaken_for)


def _macro_f1(outcomes: Outcomes, num_classes: int) -> float:
    hits, total = _hits_and_total(outcomes, num_classes)
    return float(ratio(2 * hits, total).mean())


def _hits_and_total(outcomes: Outcomes, num_classes: int) -> tuple[Values, Values]:
    """Count by class [K] the first classifier's hits, and its predicted plus true images."""
    is_hit = outcomes.predictions == outcomes.labels
    hits = np.bincount(outcomes.labels, outcomes.counts * is_hit, num_classes)
    predicted = np.bincount(outcomes.predictions, outcomes.counts, num_classes)
    return hits, predicted + np.bincount(outcomes.labels, outcomes.counts, num_classes)


def _one_hot(classes: NDArray[np.int64], num_classes: int) -> csr_array:
    """Build a sparse matrix [K, M]: 1 where the column's class is the row."""
    columns = np.arange(len(classes))
    return csr_array((np.ones(len(classes)), (classes, columns)), (num_classes, len(classes)))
