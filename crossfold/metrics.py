"""What a classifier's probabilities are worth: scores, confusion matrix, curves, intervals.

Labels are integers in [0, K); probabilities have the shape [N, K]; K >= 2 and N >= 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
MAX_CURVE_POINTS = 200


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


@dataclass(frozen=True)
class Curve:
    """One curve of at most MAX_CURVE_POINTS points.

    ROC: x is the false positive rate and y the true positive rate, from (0, 0) to (1, 1).
    PR: x is recall and y precision, from recall 1 to the point (0, 1).
    thresholds are finite, one a point. area, taken before thinning, is the area under the ROC
    curve, or the average precision.
    """

    x: list[float]
    y: list[float]
    thresholds: list[float]
    area: float


@dataclass(frozen=True)
class Curves:
    """One-vs-rest curves by class index, their micro average, and why a class has no curve."""

    per_class: dict[int, Curve]
    micro: Curve
    left_out: dict[int, str]

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold, class indices as text, and `from_json` reads."""
        return {
            "per_class": {str(i): asdict(curve) for i, curve in self.per_class.items()},
            "micro": asdict(self.micro),
            "left_out": {str(i): reason for i, reason in self.left_out.items()},
        }

    @classmethod
    def from_json(cls, curves: Mapping[str, Any]) -> "Curves":
        """Read what `to_json` gave."""
        return cls(
            {int(i): Curve(**curve) for i, curve in curves["per_class"].items()},
            Curve(**curves["micro"]),
            {int(i): reason for i, reason in curves["left_out"].items()},
        )


def confusion_matrix(
    labels: NDArray[Any], predictions: NDArray[Any], num_classes: int
) -> NDArray[np.int64]:
    """Counts of shape [K, K]; row: the true class, column: the predicted one."""
    cells = np.asarray(labels, np.int64) * num_classes + np.asarray(predictions, np.int64)
    counts = np.bincount(cells, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def class_scores(confusion: NDArray[np.int64]) -> ClassScores:
    """Scores of each class from a confusion matrix; a ratio with denominator 0 is 0."""
    hits = np.diagonal(confusion)
    predicted, support = confusion.sum(axis=0), confusion.sum(axis=1)
    return ClassScores(
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, support),
        f1=_ratio(2 * hits, predicted + support),
        support=support,
    )


def scores(labels: NDArray[Any], probabilities: NDArray[Any]) -> dict[str, float]:
    """Loss, accuracy, macro F1, macro precision and macro recall.

    The loss is the mean negative log likelihood in float64, of probabilities clipped from below at
    float32's smallest normal number: only what a float32 softmax underflows is altered, and a miss
    costs at most 87.3. Macro averages run over all K classes; a class that is neither present nor
    predicted counts as 0, as in scikit-learn with labels=range(K) and zero_division=0.
    """
    labels = np.asarray(labels)
    probabilities = np.asarray(probabilities, np.float64)
    predictions = probabilities.argmax(axis=1)
    of_label = probabilities[np.arange(len(labels)), labels]
    by_class = class_scores(confusion_matrix(labels, predictions, probabilities.shape[1]))
    return {
        "loss": float(-np.log(np.maximum(of_label, np.finfo(np.float32).tiny)).mean()),
        "accuracy": float((predictions == labels).mean()),
        "macro_f1": float(by_class.f1.mean()),
        "macro_precision": float(by_class.precision.mean()),
        "macro_recall": float(by_class.recall.mean()),
    }


def mean_std_interval(values: Sequence[float], num_folds: int) -> Spread:
    """Mean, standard deviation and 95 % interval of scores from `num_folds`-fold cross-validation.

    Two folds share most of their training images, so their scores are correlated and the usual
    variance of a mean, s²/J for J values, is too small. Student's t with the corrected variance
    (1/J + n_test/n_train) s², where n_test/n_train = 1/(num_folds - 1): C. Nadeau and Y. Bengio,
    "Inference for the generalization error", Machine Learning 52 (2003), pages 239-281.
    A symmetric interval: for scores near 1 its upper end may lie above 1.
    """
    from scipy.special import stdtrit

    mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
    quantile = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2))
    reach = quantile * std * sqrt(1 / len(values) + 1 / (num_folds - 1))
    return Spread(mean, std, (mean - reach, mean + reach))


def wilson_interval(num_hits: int, num_trials: int) -> tuple[float, float]:
    """95 % interval of a share.

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


def curves(labels: NDArray[Any], probabilities: NDArray[Any]) -> dict[str, Any]:
    """Return the ROC and the precision-recall curves as an evaluation holds them, for JSON."""
    found = {"roc": roc_curves(labels, probabilities), "pr": pr_curves(labels, probabilities)}
    return {kind: curves.to_json() for kind, curves in found.items()}


def roc_curves(labels: NDArray[Any], probabilities: NDArray[Any]) -> Curves:
    """ROC curves, one-vs-rest; scikit-learn's first threshold, infinity, is given as 1.0."""
    return _curves(labels, probabilities, _roc_curve)


def pr_curves(labels: NDArray[Any], probabilities: NDArray[Any]) -> Curves:
    """Precision-recall curves, one-vs-rest; their end (0, 1) has the threshold 1.0."""
    return _curves(labels, probabilities, _pr_curve)


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
    """Keep both ends and points at even distances along the curve, whatever their density."""
    if len(x) > MAX_CURVE_POINTS:
        travelled = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
        goals = np.linspace(0.0, travelled[-1], MAX_CURVE_POINTS)
        nearest = np.searchsorted(travelled, goals).clip(max=len(x) - 1)
        kept = np.unique(np.concatenate(([0], nearest[1:-1], [len(x) - 1])))
    else:
        kept = np.arange(len(x))
    return Curve(x[kept].tolist(), y[kept].tolist(), thresholds[kept].tolist(), area)
