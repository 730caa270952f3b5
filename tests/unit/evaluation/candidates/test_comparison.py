import numpy as np
import pytest
from scipy.stats import binomtest

from crossfold.evaluation.candidates.comparison import compare, holm


def test_a_candidate_is_compared_with_the_chosen_one_image_by_image() -> None:
    labels = np.arange(90) % 3
    chosen, other = labels.copy(), labels.copy()
    chosen[:3] = (labels[:3] + 1) % 3
    other[:15] = (labels[:15] + 1) % 3
    compared = compare(labels, {0: other, 1: chosen}, chosen=1, num_classes=3)
    assert list(compared) == [0]
    assert (compared[0].only_chosen_right, compared[0].only_this_right) == (12, 0)
    assert compared[0].p_value == pytest.approx(binomtest(0, 12).pvalue)
    assert compared[0].difference == pytest.approx(12 / 90)
    low, high = compared[0].interval
    assert 0 < low < compared[0].difference < high


def test_equal_candidates_do_not_differ() -> None:
    labels = np.arange(20) % 2
    (compared,) = compare(labels, {0: labels, 1: labels}, chosen=0, num_classes=2).values()
    assert (compared.difference, compared.p_value) == (0, 1)
    assert compared.interval[0] == -compared.interval[1] < 0


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.04], [0.04]),
        # Each times the number of those not below it, never below the one before, at most 1.
        ([0.03, 0.01, 0.02], [0.04, 0.03, 0.04]),
        ([0.9, 0.5], [1.0, 1.0]),
    ],
)
def test_several_p_values_are_adjusted(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)
