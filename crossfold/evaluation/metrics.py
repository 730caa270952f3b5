"""Score a classifier: the table of metrics, their values and their intervals.

Labels are integers in [0, K); probabilities have the shape [N, K]; K >= 2 and N >= 1.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossfold.records import Interval, Scores

CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
# The smallest stored probability, so that every library computes the same loss from a stored file.
MIN_PROBABILITY = np.finfo(np.float32).eps  # 2^-23, about 1.2e-7: a miss costs at most 15.9
NUM_RESAMPLES = 2000
_MOST_DRAWN = 2**22  # images drawn at a time, to bound memory


@dataclass(frozen=True)
class Metric:
    """A score with its name in files and logs, its label, and a short heading for terminals.

    `compute` takes a `Sample` and returns a number, or [R] for R resamples. With `in_folds`, the
    score is not only computed on the test split, but also summarised over the folds and tracked by
    epoch.
    """

    name: str
    label: str
    heading: str
    compute: Callable[["Sample"], NDArray[np.float64]]
    in_percent: bool = False
    in_folds: bool = False


# In the order of every table. To add a metric, add a row: report, model card, MLflow, DVC and the
# terminal read this table.
METRICS = (
    Metric("macro_f1", "macro F1", "macro F1", lambda s: s.counts.f1.mean(axis=0), in_folds=True),
    Metric(
        "accuracy",
        "accuracy",
        "accuracy",
        lambda s: s.counts.hits.sum(axis=0) / s.counts.support.sum(axis=0),
        in_percent=True,
        in_folds=True,
    ),
    Metric(
        "macro_precision",
        "macro precision",
        "precision",
        lambda s: s.counts.precision.mean(axis=0),
    ),
    Metric(
        "macro_recall",
        "balanced accuracy (macro recall)",
        "recall",
        lambda s: s.counts.recall.mean(axis=0),
    ),
    Metric("loss", "loss", "loss", lambda s: s.mean(s.losses), in_folds=True),
    Metric("mcc", "Matthews’ correlation", "MCC", lambda s: s.counts.matthews, in_folds=True),
)


def fold_metrics() -> tuple[Metric, ...]:
    """List the metrics that cross-validation reports."""
    return tuple(metric for metric in METRICS if metric.in_folds)


@dataclass(frozen=True)
class ClassCounts:
    """Numbers of right, predicted and all images of each class, [K] each.

    For R resamples, `hits` and `predicted` are [K, R] and `support` is [K, 1]. A ratio with
    denominator 0 is 0, as in scikit-learn with labels=range(K) and zero_division=0.
    """

    hits: NDArray[np.int64]
    predicted: NDArray[np.int64]
    support: NDArray[np.int64]

    @property
    def precision(self) -> NDArray[np.float64]:
        """The share of right images among those predicted as the class."""
        return ratio(self.hits, self.predicted)

    @property
    def recall(self) -> NDArray[np.float64]:
        """The share of right images among those of the class."""
        return ratio(self.hits, self.support)

    @property
    def f1(self) -> NDArray[np.float64]:
        """The harmonic mean of precision and recall."""
        return ratio(2 * self.hits, self.predicted + self.support)

    @property
    def matthews(self) -> NDArray[np.float64]:
        """Matthews' correlation coefficient, from -1 to 1; 0 if one class alone is predicted.

        For several classes: J. Gorodkin, "Comparing two K-category assignments by a K-category
        correlation coefficient", Computational Biology and Chemistry 28 (2004), pages 367-374.
        """
        predicted, support = self.predicted.astype(np.float64), self.support.astype(np.float64)
        num_images = support.sum(axis=0)

        between = num_images * self.hits.sum(axis=0) - (predicted * support).sum(axis=0)
        of_predicted = num_images**2 - (predicted**2).sum(axis=0)
        of_support = num_images**2 - (support**2).sum(axis=0)
        return ratio(between, np.sqrt(of_predicted * of_support))


@dataclass(frozen=True)
class Sample:
    """Scored images, or R resamples of them.

    `mean` averages a value of each image, [N], over the sample: a number, or [R] for R resamples.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[Any]
    counts: ClassCounts
    mean: Callable[[NDArray[np.float64]], NDArray[np.float64]]

    @property
    def losses(self) -> NDArray[np.float64]:
        """The negative log likelihood of each image, [N].

        Probabilities are clipped at MIN_PROBABILITY, as scikit-learn's log_loss does for float32.
        """
        of_label = self.probabilities[np.arange(len(self.labels)), self.labels]
        losses: NDArray[np.float64] = -np.log(
            np.maximum(of_label.astype(np.float64), MIN_PROBABILITY)
        )
        return losses


class Spread(NamedTuple):
    """Mean, sample standard deviation (ddof=1) and 95 % interval of the mean over folds."""

    mean: float
    std: float
    interval: Interval


class McNemar(NamedTuple):
    """Images that only one of two classifiers has right, and the p-value of McNemar's test."""

    only_first_right: int
    only_second_right: int
    p_value: float


def floored(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Raise probabilities to at least MIN_PROBABILITY, for scoring and storing."""
    clipped: NDArray[np.float32] = np.maximum(probabilities, np.float32(MIN_PROBABILITY))
    return clipped


def confusion_matrix(
    labels: NDArray[Any], predictions: NDArray[Any], num_classes: int
) -> NDArray[np.int64]:
    """Count images [K, K] by true class (row) and predicted class (column)."""
    cells = np.asarray(labels, np.int64) * num_classes + np.asarray(predictions, np.int64)
    counts = np.bincount(cells, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def class_counts(confusion: NDArray[np.int64]) -> ClassCounts:
    """Count the images of each class in a confusion matrix."""
    return ClassCounts(np.diagonal(confusion), confusion.sum(axis=0), confusion.sum(axis=1))


def macro_f1(labels: NDArray[Any], predictions: NDArray[Any], num_classes: int) -> float:
    """Compute the mean F1 over all classes, from predicted classes [N]."""
    return float(class_counts(confusion_matrix(labels, predictions, num_classes)).f1.mean())


def scores(labels: NDArray[Any], probabilities: NDArray[Any]) -> Scores:
    """Compute all METRICS."""
    predictions, num_classes = np.argmax(probabilities, axis=1), probabilities.shape[1]
    counts = class_counts(confusion_matrix(labels, predictions, num_classes))
    sample = Sample(np.asarray(labels), probabilities, counts, mean=np.mean)
    return {metric.name: float(metric.compute(sample)) for metric in METRICS}


def bootstrap_intervals(
    labels: NDArray[Any], probabilities: NDArray[Any], *, seed: int = 0
) -> dict[str, Interval]:
    """Estimate 95 % intervals of all METRICS for the random draw of the test images.

    Uses the percentile bootstrap with NUM_RESAMPLES resamples: B. Efron and R. J. Tibshirani, "An
    introduction to the bootstrap" (1993), chapter 13. Images are drawn within each class, like the
    stratified holdout, so every resample has the same class sizes and contains the small classes. A
    score of 1, or a class of one image, has no spread; that doesn't make it certain.
    """
    labels, predictions = np.asarray(labels), np.argmax(probabilities, axis=1)
    rng = np.random.default_rng(seed)
    counts = _resampled_counts(labels, predictions, probabilities.shape[1], rng)
    sample = Sample(
        labels,
        probabilities,
        counts,
        # Every mean sees the same resamples, so a new metric doesn't change another's interval.
        mean=lambda values: _resampled_means(labels, values, deepcopy(rng)),
    )
    return {metric.name: _percentiles(metric.compute(sample)) for metric in METRICS}


def class_f1_intervals(
    labels: NDArray[Any], predictions: NDArray[Any], num_classes: int, *, seed: int = 0
) -> NDArray[np.float64]:
    """Estimate each class's 95 % interval of F1, [K, 2], with `bootstrap_intervals`' resamples."""
    rng = np.random.default_rng(seed)
    counts = _resampled_counts(np.asarray(labels), np.asarray(predictions), num_classes, rng)
    intervals: NDArray[np.float64] = np.quantile(counts.f1, TAILS, axis=1).T
    return intervals


def mean_std_interval(values: Sequence[float], num_folds: int) -> Spread:
    """Summarise scores of `num_folds`-fold cross-validation: mean, std and 95 % interval.

    Two folds share most of their training images, so their scores are correlated, and the usual
    variance of a mean, s²/J for J values, is too small. The interval is Student's t with the
    corrected variance (1/J + n_test/n_train) s², where n_test/n_train = 1/(num_folds - 1):
    C. Nadeau and Y. Bengio, "Inference for the generalization error", Machine Learning 52 (2003),
    pages 239-281. It is symmetric, so for scores near 1 its upper end may lie above 1.
    """
    from scipy.special import stdtrit

    mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
    quantile = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2))
    reach = quantile * std * sqrt(1 / len(values) + 1 / (num_folds - 1))
    return Spread(mean, std, (mean - reach, mean + reach))


def wilson_interval(num_hits: int, num_trials: int) -> Interval:
    """Compute the 95 % interval of a share of hits among trials.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal
    of the American Statistical Association 22 (1927), pages 209-212.
    """
    from scipy.special import ndtri  # scipy.stats takes a second to import

    z = float(ndtri((1 + CONFIDENCE) / 2))
    share = num_hits / num_trials
    centre = share + z**2 / (2 * num_trials)
    reach = z * sqrt(share * (1 - share) / num_trials + z**2 / (4 * num_trials**2))
    scale = 1 + z**2 / num_trials
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def mcnemar(
    labels: NDArray[Any], predictions: NDArray[Any], other_predictions: NDArray[Any]
) -> McNemar:
    """Test whether two classifiers are right equally often on the same images, int [N] each.

    Uses the exact, two-sided binomial form: of the images that only one classifier has right, half
    are expected to be the first's. Q. McNemar, "Note on the sampling error of the difference
    between correlated proportions or percentages", Psychometrika 12 (1947), pages 153-157.
    """
    from scipy.special import bdtr

    right = np.asarray(predictions) == labels
    other_right = np.asarray(other_predictions) == labels
    first, second = int((right & ~other_right).sum()), int((other_right & ~right).sum())
    p_value = min(1.0, 2 * float(bdtr(min(first, second), first + second, 0.5)))
    return McNemar(first, second, p_value)


def ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[np.float64]:
    """Divide; the result is 0 where the denominator is 0."""
    quotient = np.zeros(np.broadcast_shapes(numerator.shape, denominator.shape))
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _resampled_counts(
    labels: NDArray[Any],
    predictions: NDArray[Any],
    num_classes: int,
    rng: np.random.Generator,
) -> ClassCounts:
    """Count images by class in NUM_RESAMPLES resamples.

    Images of one class with the same prediction are interchangeable. Their number in a resample is
    multinomial, so images needn't be drawn one by one.
    """
    support = np.bincount(labels, minlength=num_classes)[:, None]
    hits, predicted = np.zeros((2, num_classes, NUM_RESAMPLES), np.int64)
    for label in np.flatnonzero(support):
        kinds, sizes = np.unique(predictions[labels == label], return_counts=True)
        drawn = rng.multinomial(sizes.sum(), sizes / sizes.sum(), size=NUM_RESAMPLES).T
        predicted[kinds] += drawn
        hits[label] = drawn[kinds == label].sum(axis=0)
    return ClassCounts(hits, predicted, support)


def _resampled_means(
    labels: NDArray[Any], values: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Average `values` [N] over each resample of the images, [NUM_RESAMPLES]."""
    sums = np.zeros(NUM_RESAMPLES)
    for label in np.unique(labels):
        of_class = values[labels == label]
        size = max(1, _MOST_DRAWN // len(of_class))
        for start in range(0, NUM_RESAMPLES, size):
            part = sums[start : start + size]
            part += of_class[rng.integers(len(of_class), size=(len(part), len(of_class)))].sum(1)
    means: NDArray[np.float64] = sums / len(values)
    return means


def _percentiles(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, TAILS)
    return float(low), float(high)
