"""Estimate the smallest difference between two models that the test split can show."""

from math import sqrt

from crossfold.diagnosis.rounding import rounded
from crossfold.records import Leaderboard

from .records import Power

_Z_ALPHA = 1.959964  # two-sided 5 %
_Z_POWER = 0.841621  # 80 %
DIFFERENCES = (0.01, 0.02, 0.05)


def power(board: Leaderboard, num_images: int, num_test: int) -> Power:
    """Compute the power of a comparison on the test split.

    R. Connor, "Sample size for testing differences in proportions for the paired-sample design",
    Biometrics 43 (1987), pages 207-211.

    Args:
        board: the candidates, of which the most different one from the chosen one counts.
        num_images: the images that were predicted out of fold.
        num_test: the images of the test split.
    """
    disagreement = _disagreement(board, num_images)
    return Power(
        num_test=num_test,
        disagreement=rounded(disagreement),
        smallest_difference=round(_smallest_difference(disagreement, num_test), 4),
        num_needed={one: _num_needed(one, max(one, disagreement)) for one in DIFFERENCES},
    )


def _disagreement(board: Leaderboard, num_images: int) -> float:
    """Take the share from the candidates; from one alone, as if two were independent."""
    shares = [
        (compared.only_chosen_right + compared.only_this_right) / num_images
        for compared in (entry.against_chosen for entry in board.candidates)
        if compared
    ]
    if shares:
        return max(shares)
    accuracy = board.chosen.mean["accuracy"]
    return 2 * accuracy * (1 - accuracy)


def _num_needed(difference: float, disagreement: float) -> int:
    spread = sqrt(max(disagreement - difference**2, 0))
    return round(((_Z_ALPHA * sqrt(disagreement) + _Z_POWER * spread) / difference) ** 2 + 0.5)


def _smallest_difference(disagreement: float, num_test: int) -> float:
    """Search the smallest difference that `num_test` images are enough for.

    Two models differ in accuracy by no more than they disagree.
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if _num_needed(middle, max(middle, disagreement)) > num_test:
            low = middle
        else:
            high = middle
    return high
