"""Correct the best score of several versions on one test split for the luck of the choice."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from crossfold.evaluation.metrics import CONFIDENCE


@dataclass(frozen=True)
class BestOf:
    """The best of `num_judged` versions on one split.

    `optimism` is the most by which its score is too high on average: the value for equally good
    versions with independent errors. `interval` holds for all versions at once.
    """

    num_judged: int
    optimism: float
    interval: tuple[float, float]


def best_of(num_judged: int, score: float, interval: Sequence[float]) -> BestOf:
    """Estimate how much the choice among `num_judged` versions flatters a score in [0, 1].

    `interval` is the 95 % interval of the score alone. The expected maximum of k normal errors
    follows G. Blom, "Statistical estimates and transformed beta-variables" (1958). The wider
    interval is Bonferroni's, see O. J. Dunn, "Multiple comparisons among means", Journal of the
    American Statistical Association 56 (1961), pages 52-64; its ends are moved as for a normal
    error.
    """
    low, high = interval
    normal = NormalDist()
    usual = normal.inv_cdf((1 + CONFIDENCE) / 2)
    wider = normal.inv_cdf(1 - (1 - CONFIDENCE) / (2 * num_judged)) / usual
    expected = normal.inv_cdf((num_judged - 0.375) / (num_judged + 0.25))
    return BestOf(
        num_judged=num_judged,
        optimism=max(0.0, expected) * (high - low) / (2 * usual),
        interval=(
            max(0.0, score - wider * (score - low)),
            min(1.0, score + wider * (high - score)),
        ),
    )
