import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from crossfold.evaluation import metrics
from crossfold.evaluation.paired_interval import Outcomes, macro_f1_interval


def random_case(num_images: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.Generator(np.random.PCG64(seed))
    labels = rng.integers(num_classes, size=num_images)
    logits = rng.normal(size=(num_images, num_classes)) + 2 * np.eye(num_classes)[labels]
    odds = np.exp(logits)
    return labels, (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


# 5 images of 20 classes: most classes are absent, several never predicted, some neither.
@pytest.mark.parametrize(("num_images", "num_classes"), [(300, 2), (300, 7), (5, 20), (1, 2)])
def test_scores_and_confusion_match_sklearn(num_images: int, num_classes: int) -> None:
    labels, probabilities = random_case(num_images, num_classes)
    predictions = probabilities.argmax(axis=1)
    classes = list(range(num_classes))

    found = metrics.scores(labels, probabilities)
    confusion = metrics.confusion_matrix(labels, predictions, num_classes)
    by_class = metrics.class_counts(confusion)

    precision, recall, f1, support = sk.precision_recall_fscore_support(
        labels, predictions, labels=classes, zero_division=0
    )
    assert confusion.dtype == np.int64
    np.testing.assert_array_equal(
        confusion, sk.confusion_matrix(labels, predictions, labels=classes)
    )
    np.testing.assert_allclose(by_class.precision, precision)
    np.testing.assert_allclose(by_class.recall, recall)
    np.testing.assert_allclose(by_class.f1, f1)
    np.testing.assert_array_equal(by_class.support, support)
    assert found == pytest.approx(
        {
            "loss": -np.log(probabilities.astype(np.float64)[range(len(labels)), labels]).mean(),
            "accuracy": sk.accuracy_score(labels, predictions),
            "macro_f1": f1.mean(),
            "macro_precision": precision.mean(),
            "macro_recall": recall.mean(),
            "mcc": sk.matthews_corrcoef(labels, predictions),
        }
    )


def test_matthews_correlation_of_many_images_does_not_overflow() -> None:
    """As of 4 million images: the squares of their number have more than 64 bits."""
    confusion = np.array([[1_500_000, 500_000], [100_000, 1_900_000]])
    hits = np.sqrt(1.6 * 2.4 * 2 * 2)
    expected = (1.5 * 1.9 - 0.5 * 0.1) / hits
    assert metrics.class_counts(confusion).matthews == pytest.approx(expected)


def test_balanced_accuracy_is_macro_recall() -> None:
    labels, probabilities = random_case(300, 4)
    found = metrics.scores(labels, probabilities)["macro_recall"]
    assert found == pytest.approx(sk.balanced_accuracy_score(labels, probabilities.argmax(axis=1)))


def test_loss_of_an_impossible_label_is_finite() -> None:
    loss = metrics.scores(np.array([1]), np.array([[1.0, 0.0]], np.float32))["loss"]
    assert loss == pytest.approx(15.9424, abs=1e-4)


def test_what_is_stored_has_the_same_loss_in_scikit_learn() -> None:
    """Read as float32 or, from JSON, as float64; with a class that some image surely is not."""
    logits = 40 * np.random.default_rng(0).normal(size=(50, 4))
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    labels = np.arange(50) % 4
    raw = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    assert (raw[np.arange(50), labels] < metrics.MIN_PROBABILITY).any()
    stored = metrics.floored(raw)
    loss = metrics.scores(labels, stored)["loss"]
    assert loss == metrics.scores(labels, raw)["loss"]
    for read in (stored, np.array(stored.tolist())):
        assert sk.log_loss(labels, read, labels=range(4)) == pytest.approx(loss, rel=1e-6)


def test_interval_is_wider_than_that_of_independent_folds() -> None:
    values = [0.95, 0.97, 0.96, 0.99, 0.93]
    spread = metrics.mean_std_interval(values, 5)
    assert spread.mean == pytest.approx(0.96)
    assert spread.std == pytest.approx(np.std(values, ddof=1))
    standard_error = spread.std * np.sqrt(1 / 5 + 1 / 4)
    expected = stats.t.interval(0.95, df=4, loc=0.96, scale=standard_error)
    assert spread.interval == pytest.approx(expected)


@pytest.mark.parametrize(("hits", "trials"), [(34, 35), (35, 35), (0, 10), (1, 2)])
def test_wilson_interval_matches_scipy(hits: int, trials: int) -> None:
    expected = stats.binomtest(hits, trials).proportion_ci(method="wilson")
    assert metrics.wilson_interval(hits, trials) == pytest.approx((expected.low, expected.high))


def resampled_by_index(
    labels: np.ndarray, probabilities: np.ndarray, num_resamples: int
) -> dict[str, list[float]]:
    """The scores of resamples, drawn image by image within each class, as a textbook has it."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(num_resamples):
        rows = np.concatenate(
            [rng.choice(of_class, len(of_class)) for of_class in images_by_class(labels)]
        )
        found.append(metrics.scores(labels[rows], probabilities[rows]))
    return {name: [scores[name] for scores in found] for name in found[0]}


def images_by_class(labels: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


@pytest.mark.parametrize(("num_images", "num_classes"), [(300, 2), (200, 6), (60, 20)])
def test_bootstrap_intervals_match_drawing_image_by_image(
    num_images: int, num_classes: int
) -> None:
    labels, probabilities = random_case(num_images, num_classes)
    found = metrics.bootstrap_intervals(labels, probabilities)
    expected = resampled_by_index(labels, probabilities, 2000)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        low, high = np.quantile(values, [0.025, 0.975])
        tolerance = 0.15 * (high - low)  # the ends of 2,000 resamples are not sharper
        assert found[name] == pytest.approx((low, high), abs=tolerance), name
    assert found == metrics.bootstrap_intervals(labels, probabilities, seed=0)
    assert found != metrics.bootstrap_intervals(labels, probabilities, seed=1)


def test_f1_intervals_of_classes_match_drawing_image_by_image() -> None:
    labels, probabilities = random_case(200, 4)
    predictions = probabilities.argmax(axis=1)
    rng = np.random.default_rng(3)
    f1 = []
    for _ in range(2000):
        rows = np.concatenate([rng.choice(group, len(group)) for group in images_by_class(labels)])
        confusion = metrics.confusion_matrix(labels[rows], predictions[rows], 5)
        f1.append(metrics.class_counts(confusion).f1)
    found = metrics.class_f1_intervals(labels, predictions, 5)
    np.testing.assert_allclose(found, np.quantile(f1, [0.025, 0.975], axis=0).T, atol=0.02)
    assert found[4].tolist() == [0, 0]  # neither present nor predicted


def test_bootstrap_of_a_mean_matches_scipy() -> None:
    labels, probabilities = random_case(80, 2)
    labels = np.zeros_like(labels)  # one class, so that scipy draws from the same images
    losses = -np.log(probabilities[:, 0].astype(np.float64))
    expected = stats.bootstrap(
        (losses,), np.mean, n_resamples=20000, method="percentile", random_state=3
    ).confidence_interval
    found = metrics.bootstrap_intervals(labels, probabilities)["loss"]
    assert found == pytest.approx(tuple(expected), abs=0.1 * (expected.high - expected.low))


def test_bootstrap_takes_no_more_memory_for_more_images(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, probabilities = random_case(300, 3)
    whole = metrics.bootstrap_intervals(labels, probabilities)
    monkeypatch.setattr(metrics, "_MOST_DRAWN", 1000)
    # In parts of a few resamples the same numbers are drawn, in the same order.
    assert metrics.bootstrap_intervals(labels, probabilities) == whole


def noisy(labels: np.ndarray, share_right: float, rng: np.random.Generator) -> np.ndarray:
    """Predictions over three classes, right with a chance; a mistake is the next class."""
    return np.where(rng.random(len(labels)) < share_right, labels, (labels + 1) % 3)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(11)
    labels = np.arange(150) % 3
    within = {"accuracy": 0, "macro_f1": 0}
    paired_within, num_simulations = 0, 300
    for _ in range(num_simulations):
        one, other = noisy(labels, 0.8, rng), noisy(labels, 0.8, rng)
        intervals = metrics.bootstrap_intervals(labels, np.eye(3)[one])
        for name in within:  # mistakes are spread evenly, so macro F1 is the accuracy
            low, high = intervals[name]
            within[name] += low <= 0.8 <= high
        low, high = macro_f1_interval(Outcomes.tally(labels, one, other), 3)
        paired_within += low <= 0 <= high
    for times in (*within.values(), paired_within):
        assert 0.92 <= times / num_simulations <= 0.98


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 5, 1.0), (10, 0, 2 / 1024), (3, 9, 0.14599609375)],
)
def test_mcnemar_is_the_exact_binomial_test(
    only_first: int, only_second: int, p_value: float
) -> None:
    labels = np.zeros(only_first + only_second + 7, np.int64)
    one, other = labels.copy(), labels.copy()
    other[:only_first] = 1
    one[only_first : only_first + only_second] = 1
    one[-2:] = other[-2:] = 1  # what both have wrong says nothing
    found = metrics.mcnemar(labels, one, other)
    assert (found.only_first_right, found.only_second_right) == (only_first, only_second)
    assert found.p_value == pytest.approx(p_value)
    if only_first + only_second:
        expected = stats.binomtest(only_first, only_first + only_second).pvalue
        assert found.p_value == pytest.approx(expected)
