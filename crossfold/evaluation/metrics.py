"""Evaluate a classifier's probabilities: scores, confusion matrix, curves, intervals.

Labels are integers in [0, K); probabilities have the shape [N, K]; K >= 2 and N >= 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossfold.records import Curve, Curves, CurvesByKind, Interval, Scores

CONFIDENCE = 0.95
_TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
MAX_CURVE_POINTS = 200
# The smallest stored probability, so that every library computes the same loss from a stored file.
MIN_PROBABILITY = np.finfo(np.float32).eps  # 2^-23, about 1.2e-7: a miss costs at most 15.9
NUM_RESAMPLES = 2000
_MOST_DRAWN = 2**22  # images drawn at a time, to bound memory


class ClassScores(NamedTuple):
    """Precision, recall and F1 (float64) and support (int64) of each class, each of shape [K]."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    support: NDArray[np.int64]


class Spread(NamedTuple):
    """Mean, sample standard deviation (ddof=1) and 95 % interval of the mean over folds."""

    mean: float
    std: float
    interval: tuple[float, float]


class McNemar(NamedTuple):
    """Images that only one of two classifiers has right, and the p-value of McNemar's test."""

    only_first_right: int
    only_second_right: int
    p_value: float


def confusion_matrix(
    labels: NDArray[Any], predictions: NDArray[Any], num_classes: int
) -> NDArray[np.int64]:
    """Count images [K, K] by true class (row) and predicted class (column)."""
    cells = np.asarray(labels, np.int64) * num_classes + np.asarray(predictions, np.int64)
    counts = np.bincount(cells, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def class_scores(confusion: NDArray[np.int64]) -> ClassScores:
    """Compute each class's scores from a confusion matrix; a ratio with denominator 0 is 0."""
    hits = np.diagonal(confusion)
    predicted, support = confusion.sum(axis=0), confusion.sum(axis=1)
    return ClassScores(
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, support),
        f1=_ratio(2 * hits, predicted + support),
        support=support,
    )


def floored(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Raise probabilities to at least MIN_PROBABILITY, for scoring and storing."""
    clipped: NDArray[np.float32] = np.maximum(probabilities, np.float32(MIN_PROBABILITY))
    return clipped


def scores(labels: NDArray[Any], probabilities: NDArray[Any]) -> Scores:
    """Compute loss, accuracy, macro F1, macro precision and macro recall.

    The loss is the mean negative log likelihood in float64. Probabilities are clipped at
    MIN_PROBABILITY, as scikit-learn's log_loss does for float32. Macro averages run over all K
    classes; a class that is neither present nor predicted counts as 0, as in scikit-learn with
    labels=range(K) and zero_division=0.
    """
    labels = np.asarray(labels)
    predictions = np.argmax(probabilities, axis=1)
    by_class = class_scores(confusion_matrix(labels, predictions, probabilities.shape[1]))
    return {
        "loss": float(_losses(labels, probabilities).mean()),
        "accuracy": float((predictions == labels).mean()),
        "macro_f1": float(by_class.f1.mean()),
        "macro_precision": float(by_class.precision.mean()),
        "macro_recall": float(by_class.recall.mean()),
    }


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


def wilson_interval(num_hits: int, num_trials: int) -> tuple[float, float]:
    """Compute the 95 % interval of a share of hits among trials.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal
    of the American Statistical Association 22 (1927), pages 209-212.
    """
    from scipy.special import ndtri

    z = float(ndtri((1 + CONFIDENCE) / 2))
    share = num_hits / num_trials
    centre = share + z**2 / (2 * num_trials)
    reach = z * sqrt(share * (1 - share) / num_trials + z**2 / (4 * num_trials**2))
    scale = 1 + z**2 / num_trials
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def bootstrap_intervals(
    labels: NDArray[Any], probabilities: NDArray[Any], *, seed: int = 0
) -> dict[str, Interval]:
    """Estimate 95 % intervals of all `scores` for the random draw of the test images.

    Uses the percentile bootstrap with NUM_RESAMPLES resamples: B. Efron and R. J. Tibshirani, "An
    introduction to the bootstrap" (1993), chapter 13. Images are drawn within each class, like the
    stratified holdout, so every resample has the same class sizes and contains the small classes. A
    score of 1, or a class of one image, has no spread; that doesn't make it certain.
    """
    labels = np.asarray(labels)
    predictions = np.argmax(probabilities, axis=1)
    rng = np.random.default_rng(seed)
    (counts,) = _resampled_counts(labels, [predictions], probabilities.shape[1], rng)
    resampled = {
        "loss": _resampled_means(labels, _losses(labels, probabilities), rng),
        "accuracy": counts.hits.sum(axis=0) / len(labels),
        "macro_f1": counts.f1.mean(axis=0),
        "macro_precision": _ratio(counts.hits, counts.predicted).mean(axis=0),
        "macro_recall": _ratio(counts.hits, counts.support).mean(axis=0),
    }
    return {name: _percentiles(values) for name, values in resampled.items()}


def class_f1_intervals(
    labels: NDArray[Any], predictions: NDArray[Any], num_classes: int, *, seed: int = 0
) -> NDArray[np.float64]:
    """Estimate each class's 95 % interval of F1, [K, 2], with `bootstrap_intervals`' resamples."""
    rng = np.random.default_rng(seed)
    (counts,) = _resampled_counts(np.asarray(labels), [np.asarray(predictions)], num_classes, rng)
    intervals: NDArray[np.float64] = np.quantile(counts.f1, _TAILS, axis=1).T
    return intervals


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


def curves(labels: NDArray[Any], probabilities: NDArray[Any]) -> CurvesByKind:
    """Compute the ROC and the precision-recall curves."""
    return CurvesByKind(roc=roc_curves(labels, probabilities), pr=pr_curves(labels, probabilities))


def roc_curves(labels: NDArray[Any], probabilities: NDArray[Any]) -> Curves:
    """Compute one-vs-rest ROC curves; scikit-learn's first threshold, infinity, becomes 1.0."""
    return _curves(labels, probabilities, _roc_curve)


def pr_curves(labels: NDArray[Any], probabilities: NDArray[Any]) -> Curves:
    """Compute one-vs-rest precision-recall curves; their end (0, 1) has the threshold 1.0."""
    return _curves(labels, probabilities, _pr_curve)


def _losses(labels: NDArray[Any], probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """Compute each image's negative log likelihood [N], clipped as in `scores`."""
    of_label = np.asarray(probabilities)[np.arange(len(labels)), labels].astype(np.float64)
    losses: NDArray[np.float64] = -np.log(np.maximum(of_label, MIN_PROBABILITY))
    return losses


@dataclass(frozen=True)
class _Counts:
    """Numbers of right and of predicted images, [K, NUM_RESAMPLES] each, and support, [K, 1]."""

    hits: NDArray[np.int64]
    predicted: NDArray[np.int64]
    support: NDArray[np.int64]

    @property
    def f1(self) -> NDArray[np.float64]:
        """F1 by class and resample; 0 where a class is neither present nor predicted."""
        return _ratio(2 * self.hits, self.predicted + self.support)


def _resampled_counts(
    labels: NDArray[Any],
    predictions: Sequence[NDArray[Any]],
    num_classes: int,
    rng: np.random.Generator,
) -> list[_Counts]:
    """Count the right predictions of several classifiers on resamples of the same images.

    Images of one class with the same predictions by all classifiers are interchangeable. Their
    number in a resample is multinomial, so images needn't be drawn one by one.
    """
    support = np.bincount(labels, minlength=num_classes)[:, None]
    shape = (num_classes, NUM_RESAMPLES)
    counts = [_Counts(np.zeros(shape, int), np.zeros(shape, int), support) for _ in predictions]
    said = np.stack(predictions, axis=1)
    for label in np.flatnonzero(support):
        kinds, sizes = np.unique(said[labels == label], axis=0, return_counts=True)
        drawn = rng.multinomial(sizes.sum(), sizes / sizes.sum(), size=NUM_RESAMPLES).T
        for kind, times in zip(kinds, drawn, strict=True):
            for of_classifier, prediction in zip(counts, kind, strict=True):
                of_classifier.predicted[prediction] += times
                if prediction == label:
                    of_classifier.hits[label] += times
    return counts


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


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, _TAILS)
    return float(low), float(high)


def _ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = numerator / np.maximum(denominator, 1)
    return result


def _curves(
    labels: NDArray[Any],
    probabilities: NDArray[Any],
    curve: Callable[[NDArray[np.bool_], NDArray[Any]], Curve],
) -> Curves:
    positives = np.asarray(labels)[:, None] == np.arange(probabilities.shape[1])
    support = positives.sum(axis=0)
    left_out = {int(i): "no image of this class" for i in np.flatnonzero(support == 0)}
    left_out |= {
        int(i): "no image of another class" for i in np.flatnonzero(support == len(labels))
    }
    return Curves(
        per_class={
            i: curve(positives[:, i], probabilities[:, i])
            for i in range(probabilities.shape[1])
            if i not in left_out
        },
        micro=curve(positives.ravel(), np.ravel(probabilities)),
        left_out=left_out,
    )


def _roc_curve(positive: NDArray[np.bool_], score: NDArray[Any]) -> Curve:
    from sklearn.metrics import auc, roc_curve

    false_positive_rate, true_positive_rate, thresholds = roc_curve(positive, score)
    thresholds[0] = 1.0
    area = float(auc(false_positive_rate, true_positive_rate))
    return _thinned(false_positive_rate, true_positive_rate, thresholds, area)


def _pr_curve(positive: NDArray[np.bool_], score: NDArray[Any]) -> Curve:
    from sklearn.metrics import average_precision_score, precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(positive, score)
    area = float(average_precision_score(positive, score))
    return _thinned(recall, precision, np.append(thresholds, 1.0), area)


def _thinned(x: NDArray[Any], y: NDArray[Any], thresholds: NDArray[Any], area: float) -> Curve:
    """Thin a curve to both ends and points at even distances along it, whatever their density."""
    if len(x) > MAX_CURVE_POINTS:
        travelled = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
        goals = np.linspace(0.0, travelled[-1], MAX_CURVE_POINTS)
        nearest = np.searchsorted(travelled, goals).clip(max=len(x) - 1)
        kept = np.unique(np.concatenate(([0], nearest[1:-1], [len(x) - 1])))
    else:
        kept = np.arange(len(x))
    return Curve(
        x=x[kept].tolist(), y=y[kept].tolist(), thresholds=thresholds[kept].tolist(), area=area
    )
