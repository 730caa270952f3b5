"""Prediction sets against another implementation, and against their promise."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crossfold.errors import UserError
from crossfold.evaluation.prediction_sets.class_scores import (
    ClassScores,
    require_coverage,
)

RECORDED = Path(__file__).parents[2] / "recorded"
# P-values of crepes; the file names the version and the calls.
JUDGED = json.loads((RECORDED / "prediction_sets.json").read_text(encoding="utf-8"))["cases"]


def drawn(sizes: list[int], seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Draw labels [N] and probabilities [N, K] that favour the label, more for some classes."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    logits = rng.normal(size=(len(labels), len(sizes)))
    logits[np.arange(len(labels)), labels] += 1 + labels
    odds = np.exp(logits)
    return labels, (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("case", JUDGED.values(), ids=JUDGED)
def test_a_label_is_in_the_set_if_crepes_gives_it_a_p_value_above_one_minus_coverage(
    case: dict[str, Any], coverage: float
) -> None:
    labels, known, new, p_values = (
        np.array(case[name]) for name in ("labels", "known", "new", "p_values")
    )
    found = ClassScores.of(labels, known).sets(new, coverage)
    # A p-value of 1 / 10 is not above 1 - 0.9, which is less in floating point.
    assert found.tolist() == (p_values > 1 - coverage + 1e-9).tolist()
    assert found.mean() > 0


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
