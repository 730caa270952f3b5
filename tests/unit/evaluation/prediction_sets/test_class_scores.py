"""Prediction sets against their published definition, and against their promise."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crossfold.errors import UserError
from crossfold.evaluation.prediction_sets.class_scores import (
    UNITS,
    ClassScores,
    require_coverage,
)


def drawn(sizes: list[int], seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Draw labels [N] and probabilities [N, K] that favour the label, more for some classes."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    logits = rng.normal(size=(len(labels), len(sizes)))
    logits[np.arange(len(labels)), labels] += 1 + labels
    odds = np.exp(logits)
    return labels, (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


def p_value(labels: NDArray[Any], scores: NDArray[Any], label: int, score: int) -> float:
    """Vovk (2015), the p-value of a class-conditional conformal predictor, by counting.

    Neither MAPIE nor crepes is among the dependencies, so this is the judge.
    """
    of_class = scores[labels == label, label]
    return float((np.sum(of_class >= score) + 1) / (len(of_class) + 1))


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_a_label_is_in_the_set_if_its_p_value_is_above_one_minus_coverage(coverage: float) -> None:
    labels, known = drawn([9, 19, 120, 3], seed=0)
    _, new = drawn([30, 30, 30, 30], seed=1)
    scores, of_new = (np.rint((1.0 - p.astype(float)) * UNITS).astype(int) for p in (known, new))
    found = ClassScores.of(labels, known).sets(new, coverage)
    wanted = [
        [
            # 9 and 19 images: 0.1 and 0.05 are possible p-values, and not above themselves.
            round(p_value(labels, scores, k, row[k]) - (1 - coverage), 9) > 0
            for k in range(4)
        ]
        for row in of_new
    ]
    assert found.tolist() == wanted
    assert 0 < found.mean() < 1


def test_equal_scores_count_as_strange_as_the_image() -> None:
    probabilities = np.full((19, 2), [0.75, 0.25], np.float32)
    scores = ClassScores.of(np.zeros(19, int), probabilities)
    assert scores.sets(np.array([[0.75, 0.25], [0.749, 0.251]]), 0.9)[:, 0].tolist() == [
        True,
        False,
    ]


def test_a_class_with_too_few_images_is_in_every_set() -> None:
    labels, probabilities = drawn([18, 19, 0, 100], seed=2)
    scores = ClassScores.of(labels, probabilities)
    assert scores.always_inside(0.95).tolist() == [True, False, True, False]
    assert scores.always_inside(0.9).tolist() == [False, False, True, False]
    never = np.zeros((1, 4), np.float32)
    assert scores.sets(never, 0.95).tolist() == [[True, False, True, False]]


def test_each_class_is_covered_as_often_as_asked() -> None:
    """Exchangeable draws: 400 repetitions, each with its own scores and new images."""
    sizes, coverage = [20, 60, 200], 0.9
    hits = np.zeros((400, 3))
    for seed in range(400):
        labels, known = drawn(sizes, seed)
        truth, new = drawn([50] * 3, seed + 1000)
        inside = ClassScores.of(labels, known).sets(new, coverage)
        hits[seed] = inside[np.arange(150), truth].reshape(3, 50).mean(axis=1)
    means, errors = hits.mean(axis=0), hits.std(axis=0) / math.sqrt(len(hits))
    # Coverage is at least 0.9 and below 0.9 + 1 / (n + 1), by the theory of conformal prediction.
    assert (means > coverage - 4 * errors).all()
    assert (means < coverage + 1 / (np.array(sizes) + 1) + 4 * errors).all()
    assert errors.max() < 0.005


@pytest.mark.parametrize("coverage", [0.0, 1.0, 95.0, -0.1, math.nan])
def test_a_coverage_is_a_share(coverage: float) -> None:
    with pytest.raises(UserError, match=r"between 0 and 1"):
        require_coverage(coverage)
