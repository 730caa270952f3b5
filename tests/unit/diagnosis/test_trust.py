"""How far the score can be trusted, on made-up features where the truth is known."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import nn

from crossfold.diagnosis.head_fits import MIN_STD, ScaledRows
from crossfold.diagnosis.learning_curve import learning_curve
from crossfold.diagnosis.permutation_test import has_mixed_groups, permutation_test
from crossfold.diagnosis.power import _num_needed, _smallest_difference
from crossfold.diagnosis.repeated_cv import nest_cv, repeat_cv
from crossfold.training import head
from crossfold.training.feature_rows import FeatureRows

Values = NDArray[np.float64]
Numbers = NDArray[np.int64]
NAMES = ("a", "b", "c")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As diagnose_data does."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield


def drawn(num_images: int, distance: float, seed: int = 0) -> tuple[Values, Numbers, Numbers]:
    """Draw features of three classes at a distance, in 40 channels, labels and five folds."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_images) % 3
    features = rng.normal(size=(num_images, 40))
    features[np.arange(num_images), labels] += distance
    return features, labels, rng.permutation(num_images) % 5


@pytest.mark.parametrize("num_images", [30, 90])  # fewer and more images than channels
@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_quick_head_predicts_as_a_head_that_training_fits(
    num_images: int, num_classes: int
) -> None:
    features, labels, _ = drawn(num_images + 60, 2)
    labels %= num_classes
    training, validation = np.arange(num_images), np.arange(num_images, num_images + 60)
    quick = ScaledRows.of(features, training, validation).predict(labels[training], 0.01)
    linear = nn.Sequential(nn.Linear(40, num_classes))
    stored = features.astype(np.float32)
    rows = FeatureRows(stored, labels, training)
    head.fit_head(linear, rows, 0.01, lambda _: None)
    with torch.inference_mode():
        slow = linear(torch.from_numpy(stored[validation])).argmax(dim=1).numpy()
    assert (quick == slow).mean() > 0.98
    assert head.MIN_STD == MIN_STD


def test_repeated_cross_validation_keeps_groups_together() -> None:
    features, labels, _ = drawn(120, 0)
    copies = np.repeat(np.arange(40), 3) * 3  # three images of a group look the same
    features, labels = features[copies], (np.arange(120) // 3) % 3
    alone = repeat_cv(features, labels, np.arange(120), {"head": 0.1}, num_folds=4, num_repeats=3)
    grouped = repeat_cv(features, labels, copies, {"head": 0.1}, num_folds=4, num_repeats=3)
    assert alone.heads[0].macro_f1 > 0.8 > 0.6 > grouped.heads[0].macro_f1
    assert grouped.heads[0].lowest <= grouped.heads[0].macro_f1 <= grouped.heads[0].highest


def test_the_best_of_equal_heads_is_optimistic() -> None:
    """Without signal, every head scores by chance, and the best by luck."""
    optimism = []
    for seed in range(4):
        features, labels, folds = drawn(40, 0, seed)
        decays = {str(decay): decay for decay in (0.1, 10)}
        found = nest_cv(features, labels, folds, decays)
        optimism.append(found.optimism)
        assert sum(found.num_chosen.values()) == 5
        assert found.optimism == pytest.approx(found.plain_macro_f1 - found.macro_f1, abs=1e-5)
    assert np.mean(optimism) > 0  # of one data set it may be negative


def test_permutations_tell_a_signal_from_none() -> None:
    features, labels, folds = drawn(90, 2)
    found = permutation_test(features, labels, folds, np.arange(90), num_permutations=199)
    assert found.p_value == 1 / 200 and found.balanced_accuracy > found.best_permuted
    p_values = []
    for seed in range(40):
        features, labels, folds = drawn(45, 0, seed)
        found = permutation_test(features, labels, folds, np.arange(45), num_permutations=49)
        p_values.append(found.p_value)
    assert 0.35 < np.mean(p_values) < 0.65  # uniform


def test_labels_are_exchanged_between_groups() -> None:
    """Features that only know their group look like a signal if images are exchanged."""
    rng = np.random.default_rng(0)
    groups = np.arange(90) // 9
    labels = np.array([0, 1] * 5)[groups]
    features = rng.normal(size=(10, 40))[groups] + rng.normal(size=(90, 40)) / 10
    folds = np.arange(90) % 5  # divides groups
    by_image = permutation_test(features, labels, folds, np.arange(90), num_permutations=99)
    by_group = permutation_test(features, labels, folds, groups, num_permutations=99)
    assert by_image.p_value == 0.01 and by_group.p_value > 0.05
    assert not has_mixed_groups(labels, groups)
    assert has_mixed_groups(labels, np.zeros(90, np.int64))


def test_the_smallest_difference_is_the_one_that_so_many_images_show() -> None:
    """Of many drawn comparisons with that difference, four in five are significant."""
    num_images = _num_needed(0.1, 0.25)
    shares = [(0.25 + 0.1) / 2, (0.25 - 0.1) / 2, 0.75]
    first, second, _ = np.random.default_rng(0).multinomial(num_images, shares, size=20_000).T
    significant = abs(first - second) / np.sqrt(first + second) > 1.96
    assert significant.mean() == pytest.approx(0.8, abs=0.03)
    assert _smallest_difference(0.25, num_images) == pytest.approx(0.1, abs=0.002)
    assert _smallest_difference(0.01, 50) > 0.01  # with few images, they must disagree more


def test_a_learning_curve_foretells_the_score_of_more_images() -> None:
    features, labels, folds = drawn(120, 2)
    found = learning_curve(features, labels, folds, NAMES, head="head", weight_decay=0.1)
    more, more_labels, more_folds = drawn(240, 2)
    measured = learning_curve(more, more_labels, more_folds, NAMES, head="head", weight_decay=0.1)
    twice = found.a - found.b * (0.8 * 240) ** -found.c
    assert twice == pytest.approx(measured.points[-1].macro_f1, abs=0.05)
    assert [point.num_images for point in found.points] == sorted(
        point.num_images for point in found.points
    )
    for gain in found.gains:
        assert gain.interval[0] <= gain.gain <= gain.interval[1]
