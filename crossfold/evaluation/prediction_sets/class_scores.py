"""Class-conditional prediction sets from out-of-fold scores.

The score of a label is 1 minus its calibrated probability: the higher, the stranger. A label's
p-value is the share of the class's training images, the new image among them, that are at least as
strange; their scores are out of fold. The set holds each label with a p-value above 1 - coverage.

V. Vovk, "Cross-conformal predictors", Annals of Mathematics and Artificial Intelligence 74 (2015),
pages 9-28, with a class's scores for the label of that class alone (Mondrian). The new image is
scored by the final network, not by those of the folds, so the bound 1 - 2 (1 - coverage) of CV+ (R.
Barber, E. Candes, A. Ramdas and R. Tibshirani, "Predictive inference with the jackknife+", Annals
of Statistics 49 (2021), pages 486-507) is not proven here; see docs/decisions/053.
"""

from dataclasses import dataclass
from math import floor
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from crossfold.errors import UserError

# Scores are counted in millionths, so that ranks are the same on every machine.
UNITS = 1_000_000
_TOLERANCE = 1e-9  # 0.1 * 10 images must be 1 image in floating point too


def require_coverage(coverage: float) -> None:
    """Raise UserError unless the coverage is a share strictly between 0 and 1."""
    if not 0 < coverage < 1:
        raise UserError(f"coverage {coverage}: not between 0 and 1; choose a share such as 0.95")


@dataclass(frozen=True)
class ClassScores:
    """The out-of-fold scores of each class's images, sorted, in millionths, int64 each."""

    by_class: tuple[NDArray[np.int64], ...]

    @classmethod
    def of(cls, labels: NDArray[Any], probabilities: NDArray[Any]) -> Self:
        """Score images by their labels [N] and their calibrated probabilities [N, K]."""
        scores = _scores(probabilities)
        return cls(
            tuple(
                np.sort(scores[labels == label, label]) for label in range(probabilities.shape[1])
            )
        )

    def sets(self, probabilities: NDArray[Any], coverage: float) -> NDArray[np.bool_]:
        """Tell which labels are in each image's set [N, K], by calibrated probabilities [N, K]."""
        inside: NDArray[np.bool_] = _scores(probabilities) <= self._highest(coverage)
        return inside

    def always_inside(self, coverage: float) -> NDArray[np.bool_]:
        """Tell which classes have too few images to be ruled out of any set, [K].

        The smallest p-value of a class with n images is 1 / (n + 1).
        """
        ranks = [_rank(len(scores), coverage) for scores in self.by_class]
        always: NDArray[np.bool_] = np.array(ranks) == 0
        return always

    def _highest(self, coverage: float) -> NDArray[np.float64]:
        """Compute each label's highest score inside a set, [K]; infinite for no limit."""
        ranks = [_rank(len(scores), coverage) for scores in self.by_class]
        return np.array(
            [
                scores[-rank] if rank else np.inf
                for scores, rank in zip(self.by_class, ranks, strict=True)
            ]
        )


def _rank(num_images: int, coverage: float) -> int:
    """Count the images that must be at least as strange for a p-value above 1 - coverage."""
    return floor((1 - coverage) * (num_images + 1) + _TOLERANCE)


def _scores(probabilities: NDArray[Any]) -> NDArray[np.int64]:
    scores: NDArray[np.float64] = np.rint((1 - probabilities.astype(np.float64)) * UNITS)
    return scores.astype(np.int64)
