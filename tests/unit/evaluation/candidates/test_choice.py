import numpy as np
import pytest
from numpy.typing import NDArray

from crossfold.evaluation import metrics
from crossfold.evaluation.candidates import choice
from crossfold.evaluation.candidates.choice import Rule, corrected_score
from crossfold.records import CorrectedScore

NUM_CLASSES = 4


def best_of(num_candidates: int) -> Rule:
    return Rule(np.zeros(num_candidates), np.zeros(num_candidates, np.int64))


def corrected(labels: NDArray[np.int64], predictions: NDArray[np.int64]) -> CorrectedScore:
    """Choose the best of the candidates, and correct its score."""
    scores = [metrics.macro_f1(labels, of_one, NUM_CLASSES) for of_one in predictions]
    found = corrected_score(
        labels,
        predictions,
        best_of(len(predictions)),
        chosen=int(np.argmax(scores)),
        score=max(scores),
        num_classes=NUM_CLASSES,
    )
    assert found is not None
    return found


def draw(
    num_images: int, accuracy: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels [N], and predictions [C, N] that are right with each candidate's probability."""
    labels = np.arange(num_images) % NUM_CLASSES
    wrong = (labels + rng.integers(1, NUM_CLASSES, size=num_images)) % NUM_CLASSES
    right = rng.random((len(accuracy), num_images)) < accuracy[:, None]
    return labels, np.where(right, labels, wrong)


@pytest.mark.parametrize(
    ("slack", "size", "chosen"),
    [
        # Scores of three candidates in two resamples: [0.5, 0.7, 0.6] and [0.7, 0.7, 0.1].
        ([0, 0, 0], [0, 0, 0], [1, 0]),
        ([0, 0, 0], [3, 2, 1], [1, 1]),
        ([0, 0.15, 0], [3, 2, 1], [2, 1]),
        ([0.15, 0.3, 0], [1, 2, 1], [2, 0]),  # the leader's slack counts, and the first one leads
    ],
)
def test_the_smallest_within_the_leaders_slack_is_chosen(
    slack: list[float], size: list[int], chosen: list[int]
) -> None:
    scores = np.array([[0.5, 0.7], [0.7, 0.7], [0.6, 0.1]])
    rule = Rule(np.array(slack), np.array(size))
    assert rule.choose(scores).tolist() == chosen


def test_the_best_of_equally_good_candidates_is_corrected_to_what_each_is_worth() -> None:
    rng = np.random.default_rng(0)
    accuracy = np.full(10, 0.9)
    naive, unbiased, worth = [], [], []
    for _ in range(30):
        labels, predictions = draw(200, accuracy, rng)
        found = corrected(labels, predictions)
        naive.append(found.macro_f1 + found.optimism)
        unbiased.append(found.macro_f1)
        worth += [metrics.macro_f1(labels, of_one, NUM_CLASSES) for of_one in predictions]
        assert found.interval[0] < found.macro_f1 < found.interval[1]
    # The standard deviation of one score is 0.02, so that of these means is at most 0.004.
    assert np.mean(naive) > np.mean(worth) + 0.02
    assert np.mean(unbiased) == pytest.approx(np.mean(worth), abs=0.006)


def test_a_candidate_that_is_far_better_needs_no_correction() -> None:
    labels, predictions = draw(200, np.array([0.9, 0.4, 0.4]), np.random.default_rng(0))
    assert corrected(labels, predictions).optimism == 0


def test_candidates_with_the_same_predictions_need_no_correction() -> None:
    labels, predictions = draw(40, np.array([0.8]), np.random.default_rng(0))
    found = corrected(labels, np.repeat(predictions, 3, axis=0))
    assert found.optimism == 0
    assert found.macro_f1 == metrics.macro_f1(labels, predictions[0], NUM_CLASSES)


def test_one_candidate_has_nothing_to_correct() -> None:
    labels, predictions = draw(40, np.array([0.8]), np.random.default_rng(0))
    rule = best_of(1)
    assert (
        corrected_score(labels, predictions, rule, chosen=0, score=0.8, num_classes=NUM_CLASSES)
        is None
    )


def test_a_class_of_one_image_and_a_class_of_none_are_no_obstacle() -> None:
    labels = np.array([0] * 20 + [1] * 20 + [2])
    predictions = np.stack([np.roll(labels, 1), np.roll(labels, 2)])
    found = corrected(labels, predictions)
    assert 0 <= found.optimism < 0.1 and np.isfinite(found.interval).all()


def test_the_groups_count_as_images_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recompute the optimism from the times that each image was drawn."""
    labels, predictions = draw(30, np.array([0.7, 0.6]), np.random.default_rng(1))
    order = np.lexsort([*predictions[::-1], labels])
    labels, predictions = labels[order], predictions[:, order]
    drawn = []
    times_drawn = choice._Groups._times_drawn

    def recorded(groups: choice._Groups, num: int, rng: np.random.Generator) -> NDArray[np.int64]:
        drawn.append(times_drawn(groups, num, rng))
        return drawn[-1]

    monkeypatch.setattr(choice._Groups, "_times_drawn", recorded)
    found = corrected(labels, predictions)
    (times,) = drawn
    assert times.shape == (choice.NUM_RESAMPLES, 30)
    assert (times.sum(axis=1) == 30).all()
    scores = [metrics.macro_f1(labels, of_one, NUM_CLASSES) for of_one in predictions]
    lost = []
    for of_images in times:
        again, left = np.repeat(np.arange(30), of_images), np.flatnonzero(of_images == 0)
        in_bag = [metrics.macro_f1(labels[again], p[again], NUM_CLASSES) for p in predictions]
        out = [_present_macro_f1(labels[left], p[left]) for p in predictions]
        lost.append(out[int(np.argmax(scores))] - out[int(np.argmax(in_bag))])
    assert found.optimism == pytest.approx(np.mean(lost))


def _present_macro_f1(labels: NDArray[np.int64], predictions: NDArray[np.int64]) -> float:
    """Macro F1 over the classes that have images."""
    counts = metrics.class_counts(metrics.confusion_matrix(labels, predictions, NUM_CLASSES))
    return float(counts.f1[counts.support > 0].mean())
