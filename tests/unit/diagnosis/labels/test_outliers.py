from pathlib import Path

import numpy as np
import pytest

from crossfold.diagnosis.labels import outliers
from crossfold.diagnosis.labels.outliers import NUM_NEIGHBOURS, find_outliers, nearest_distances
from tests.unit.diagnosis.evidences import evidence, with_groups

RANDOM = np.random.default_rng(0)
LABELS = np.repeat([0, 1], 40)
CENTRES = 10 * np.eye(2, 64)
FEATURES = CENTRES[LABELS] + RANDOM.normal(0, 1, (80, 64))
PROBABILITIES = np.full((80, 2), 0.5)


def test_an_image_of_another_class_is_an_outlier_even_beside_its_copies(examples: Path) -> None:
    features, groups = FEATURES.copy(), np.arange(80)
    copies = slice(3, 3 + NUM_NEIGHBOURS + 1)
    features[copies], groups[copies] = CENTRES[1], 3
    one = evidence(examples, LABELS, PROBABILITIES)
    assert find_outliers(one, features).num_outliers == 0  # the copies are near each other
    found = find_outliers(with_groups(one, groups), features)
    assert [outlier.path for outlier in found.outliers] == [f"{n}.png" for n in range(3, 9)]
    assert {outlier.label for outlier in found.outliers} == {"0"}
    assert found.outliers[0].distance == pytest.approx(1, abs=0.4)
    assert (found.num_judged, found.num_references) == (80, None)


def test_a_class_without_enough_others_is_not_judged(examples: Path) -> None:
    one = evidence(examples, LABELS, PROBABILITIES)
    found = find_outliers(with_groups(one, np.where(LABELS == 0, 0, np.arange(80))), FEATURES)
    assert found.num_judged == 40


def test_distances_are_those_of_all_pairs_and_to_a_subset_if_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    members = np.flatnonzero(LABELS == 0)
    unit = FEATURES[members] / np.linalg.norm(FEATURES[members], axis=1, keepdims=True)
    pairs = 1 - unit @ unit.T
    np.fill_diagonal(pairs, np.inf)
    monkeypatch.setattr(outliers, "ROWS_AT_ONCE", 7)
    for most in (40, 10):
        monkeypatch.setattr(outliers, "MAX_REFERENCES", most)
        expected = np.sort(pairs[:, :: 40 // most], axis=1)[:, :NUM_NEIGHBOURS].mean(axis=1)
        measured = nearest_distances(FEATURES, members, np.arange(80))
        assert measured == pytest.approx(expected, abs=1e-6)
