"""What it does to a score that several versions were judged on the same test split."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from crossfold.evaluation.metrics import CONFIDENCE


@dataclass(frozen=True)
class BestOf:
    """The best of `num_judged` versions on one split.

    `optimism` is what its score is too high by on average, at the most: were all versions equally
    good and their errors independent. `interval` holds for all of them at once.
    """

    num_judged: int
    optimism: float
    interval: tuple[float, float]


def best_of(num_judged: int, score: float, interval: Sequence[float]) -> BestOf:
    """Say what the choice among `num_judged` versions does to a score in [0, 1].

    `interval` is the score's own 95 % one. The expected maximum of k normal errors is that of
    G. Blom, "Statistical estimates and transformed beta-variables" (1958); the interval is
    Bonferroni's, as by O. J. Dunn, "Multiple comparisons among means", Journal of the American
    Statistical Association 56 (1961), pages 52-64, its ends moved as a normal error's would be.
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
