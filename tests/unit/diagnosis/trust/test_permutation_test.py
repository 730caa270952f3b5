import numpy as np

from crossfold.diagnosis.trust.permutation_test import has_mixed_groups, permutation_test

from .drawn import drawn


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
