from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crossfold.evaluation.prediction_sets import novelty
from crossfold.evaluation.prediction_sets.novelty import Novelty

NUM_CHANNELS = 16


def drawn(per_class: int, seed: int, classes: int = 3) -> tuple[NDArray[Any], NDArray[Any]]:
    """Draw features around the first axes, one for each class, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(per_class * classes) % classes
    features = 0.2 * rng.normal(size=(len(labels), NUM_CHANNELS)) + 5 * np.eye(NUM_CHANNELS)[labels]
    return features.astype(np.float32), labels


def folds_of(labels: NDArray[Any]) -> NDArray[Any]:
    return np.arange(len(labels)) // 3 % 5


def test_images_like_the_training_images_are_novel_in_one_of_a_hundred_cases() -> None:
    features, labels = drawn(200, seed=0)
    found = Novelty.fit(features, labels, folds_of(labels))
    known, _ = drawn(1000, seed=1)
    assert 0.001 < found.is_novel(known).mean() < 0.02


def test_images_in_another_direction_are_novel() -> None:
    features, labels = drawn(50, seed=0)
    found = Novelty.fit(features, labels, folds_of(labels))
    others = np.roll(drawn(20, seed=1)[0], 3, axis=1)
    assert found.is_novel(others).all()
    maps = np.repeat(others[:, :, np.newaxis], 4, axis=2).reshape(-1, NUM_CHANNELS, 2, 2)
    assert found.distances(maps) == pytest.approx(found.distances(others), abs=2e-6)


def test_the_limit_is_the_quantile_of_the_distances_to_other_folds() -> None:
    features, labels = drawn(40, seed=0)  # 120 images: the 120th of 121 ranks
    folds = folds_of(labels)
    by_hand = []
    for image, fold in zip(features.astype(float), folds, strict=True):
        others = features[folds != fold].astype(float)
        # The mean is over the references of that fold, by class; all are references here.
        centre = others.mean(axis=0)
        cosines = [
            (image - centre) @ (o - centre) / np.linalg.norm(image - centre)
            / np.linalg.norm(o - centre)
            for o in others
        ]  # fmt: skip
        by_hand.append(1 - max(cosines))
    found = Novelty.fit(features, labels, folds)
    assert found.max_distance == pytest.approx(sorted(by_hand)[119], abs=2e-6)


def test_references_are_bounded_and_every_class_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = drawn(50, seed=0)
    rare = np.concatenate([features, features[:1] + 1])
    monkeypatch.setattr(novelty, "MAX_REFERENCES", 12)
    found = Novelty.fit(rare, np.append(labels, 3), folds_of(np.append(labels, 3)))
    assert len(found.references) == 3 * 3 + 1
    assert np.array_equal(found.references[-1], rare[-1])


def test_features_of_zeros_have_a_distance() -> None:
    features, labels = drawn(50, seed=0)
    found = Novelty.fit(np.zeros_like(features), labels, folds_of(labels))
    assert found.is_novel(np.zeros((2, NUM_CHANNELS), np.float32)).tolist() == [False, False]
