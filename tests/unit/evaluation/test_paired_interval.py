import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest

from crossfold.evaluation import metrics, paired_interval
from crossfold.evaluation.paired_interval import (
    Outcomes,
    enough_images,
    lower_limit,
    macro_f1_interval,
)

MARGIN = 0.02
NOMINAL = 0.025  # of one side of a 95 % interval


def outcomes(*rows: tuple[int, int, int, int]) -> Outcomes:
    """Label, prediction, the other's prediction and how many images."""
    return Outcomes(*np.array(rows).T)


def test_images_that_are_alike_are_counted() -> None:
    found = Outcomes.tally(np.array([0, 1, 0, 1]), np.array([0, 0, 0, 1]), np.array([1, 1, 1, 1]))
    rows = list(zip(*(values.tolist() for values in found), strict=True))
    assert rows == [(0, 0, 1, 2), (1, 0, 1, 1), (1, 1, 1, 1)]


@pytest.mark.parametrize("num_worse", [0, 1, 5, 20])
def test_where_one_class_alone_differs_the_limit_is_clopper_and_pearsons(num_worse: int) -> None:
    size = 50
    found = outcomes((0, 0, 0, size - num_worse), (0, 1, 0, num_worse), (1, 1, 1, size))
    recall = 1 - binomtest(num_worse, size).proportion_ci(method="exact").high
    hits = size * recall
    f1 = (2 * hits / (hits + size) + 2 * size / (size - hits + 2 * size)) / 2
    low, _ = macro_f1_interval(found, 2)
    assert low == pytest.approx(f1 - 1, rel=0.05)
    _, high = macro_f1_interval(found.swapped(), 2)
    assert high == -low


def test_on_many_images_it_is_the_bootstraps_interval() -> None:
    rng = np.random.default_rng(5)
    labels = np.arange(3000) % 3
    one, other = noisy(labels, 0.9, rng), noisy(labels, 0.7, rng)
    differences = []
    for _ in range(400):
        rows = np.concatenate([rng.choice(np.flatnonzero(labels == k), 1000) for k in range(3)])
        differences.append(macro_f1(labels[rows], one[rows]) - macro_f1(labels[rows], other[rows]))
    low, high = np.quantile(differences, [0.025, 0.975])
    found = macro_f1_interval(Outcomes.tally(labels, one, other), 3)
    assert found == pytest.approx((low, high), abs=0.15 * (high - low))


def noisy(labels: NDArray[np.int64], share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Predictions over three classes, right with a chance; a mistake is the next class."""
    return np.where(rng.random(len(labels)) < share, labels, (labels + 1) % 3)


def macro_f1(labels: NDArray[np.int64], predictions: NDArray[np.int64]) -> float:
    confusion = metrics.confusion_matrix(labels, predictions, 3)
    return float(metrics.class_counts(confusion).f1.mean())


def test_a_class_without_an_image_and_one_that_nobody_predicts_count_as_they_do_in_macro_f1() -> (
    None
):
    low, high = macro_f1_interval(outcomes((0, 1, 1, 300), (1, 1, 1, 300)), 3)
    assert -0.02 < low < 0 < high < 0.02


def test_a_class_of_one_image_settles_nothing() -> None:
    low, high = macro_f1_interval(outcomes((0, 0, 0, 999), (1, 1, 1, 1)), 2)
    assert low < -0.3
    assert high > 0.3


def test_enough_images_are_the_fewest_that_do() -> None:
    # (1 - 0.02)^n = 0.025 at n = 183: none of so many is wrong by chance.
    agreeing = outcomes((0, 0, 0, 20), (1, 1, 1, 20))
    assert enough_images(agreeing, 2, -MARGIN) == pytest.approx(183, rel=0.06)
    assert enough_images(outcomes((0, 0, 0, 20), (1, 0, 1, 1)), 2, -MARGIN) is None


@pytest.mark.parametrize(
    ("shares", "gain"),
    [
        ((0.5, 0.5), 0.0),
        ((0.5, 0.5), 0.1),
        ((0.9, 0.1), 0.0),
        ((0.1,) * 10, 0.1),
    ],
)
def test_false_promotions_stay_at_their_nominal_rate(
    monkeypatch: pytest.MonkeyPatch, shares: tuple[float, ...], gain: float
) -> None:
    """A challenger that is worse by just the margin, and by 5 points, on 10 to 1,000 images.

    `gain` is the share of images that only the challenger has right. Without any, and with few
    images of a class, a bootstrap promotes most.
    """
    monkeypatch.setattr(paired_interval, "NUM_DRAWS", 500)
    rng = np.random.default_rng(3)
    num_draws = 300
    noise = 3 * np.sqrt(NOMINAL * (1 - NOMINAL) / num_draws)
    for num_images in (10, 30, 100, 300, 1000):
        sizes = np.maximum(1, (num_images * np.array(shares)).astype(int))
        at_margin = false_promotions(sizes, gain, MARGIN, num_draws, rng)
        assert at_margin <= NOMINAL + noise, num_images
        assert false_promotions(sizes, gain, 0.05, num_draws, rng) <= at_margin + noise, num_images


def false_promotions(
    sizes: NDArray[np.int64],
    gain: float,
    deficit: float,
    num_draws: int,
    rng: np.random.Generator,
) -> float:
    """How often the gate passes a challenger whose true macro F1 is lower by `deficit`."""
    num_classes = len(sizes)
    loss = brentq(lambda loss: true_deficit(sizes, gain, loss) - deficit, 0, 0.7)
    draws = [rng.multinomial(size, kinds(gain, loss), num_draws) for size in sizes]
    tables, times = np.unique(np.concatenate(draws, axis=1), axis=0, return_counts=True)
    labels = np.repeat(np.arange(num_classes), 4)
    right, wrong = labels, (labels + 1) % num_classes
    kind = np.tile(np.arange(4), num_classes)
    mine, champions = np.where(kind % 2, wrong, right), np.where(kind // 2, wrong, right)
    passed = 0
    for table, number in zip(tables, times, strict=True):
        drawn = Outcomes(labels, mine, champions, table)
        # The limit lies below the difference itself, which is quick to tell.
        if difference(drawn, num_classes) >= -MARGIN:
            low = lower_limit(drawn, num_classes)
            passed += number * (low >= -MARGIN)
    return float(passed / num_draws)


def kinds(gain: float, loss: float) -> list[float]:
    """Shares of images that both have right, only the champion, only the challenger, and none."""
    return [1 - loss - 2 * gain, loss, gain, gain]


def true_deficit(sizes: NDArray[np.int64], gain: float, loss: float) -> float:
    num_classes = len(sizes)
    labels = np.repeat(np.arange(num_classes), 4)
    wrong, kind = (labels + 1) % num_classes, np.tile(np.arange(4), num_classes)
    counts = np.concatenate([size * np.array(kinds(gain, loss)) for size in sizes])
    drawn = Outcomes(
        labels, np.where(kind % 2, wrong, labels), np.where(kind // 2, wrong, labels), counts
    )
    return -difference(drawn, num_classes)


def difference(found: Outcomes, num_classes: int) -> float:
    def macro_f1(predictions: NDArray[np.int64]) -> float:
        confusion = np.zeros((num_classes, num_classes))
        np.add.at(confusion, (found.labels, predictions), found.counts)
        return float(np.mean(2 * np.diag(confusion) / (confusion.sum(0) + confusion.sum(1))))

    return macro_f1(found.predictions) - macro_f1(found.other_predictions)
