import numpy as np
import pytest

from crossfold.diagnosis.trust.learning_curve import group_places, learning_curve

from .drawn import drawn

NAMES = ("a", "b", "c")


def test_a_learning_curve_foretells_the_score_of_more_images() -> None:
    features, labels, folds = drawn(120, 2)
    found = learning_curve(
        features, labels, folds, np.arange(120), NAMES, head="head", weight_decay=0.1
    )
    more, more_labels, more_folds = drawn(240, 2)
    measured = learning_curve(
        more, more_labels, more_folds, np.arange(240), NAMES, head="head", weight_decay=0.1
    )
    twice = found.a - found.b * (0.8 * 240) ** -found.c
    assert twice == pytest.approx(measured.points[-1].macro_f1, abs=0.05)
    assert [point.num_images for point in found.points] == sorted(
        point.num_images for point in found.points
    )
    for gain in found.gains:
        assert gain.interval[0] <= gain.gain <= gain.interval[1]


def test_shares_divide_no_group_and_hold_each_class() -> None:
    groups = np.arange(60) // 5
    labels = groups % 3
    places = group_places(labels, np.random.default_rng(0).permutation(12)[groups])
    for share in (0.2, 0.5, 0.8):
        chosen = places < share
        assert all(len(set(chosen[groups == group])) == 1 for group in range(12))
        assert set(labels[chosen]) == {0, 1, 2}
        assert chosen.mean() < share + 0.25
