"""Compute ROC and precision-recall curves, one class against the rest.

Labels are integers in [0, K); probabilities have the shape [N, K]; K >= 2 and N >= 1.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfold.records import Curve, Curves, CurvesByKind

MAX_CURVE_POINTS = 200


def compute_curves(labels: NDArray[Any], probabilities: NDArray[Any]) -> CurvesByKind:
    """Compute the ROC and the precision-recall curves."""
    return CurvesByKind(roc=roc_curves(labels, probabilities), pr=pr_curves(labels, probabilities))


def roc_curves(labels: NDArray[Any], probabilities: NDArray[Any]) -> Curves:
    """Compute one-vs-rest ROC curves; scikit-learn's first threshold, infinity, becomes 1.0."""
    return _curves(labels, probabilities, _roc_curve)


def pr_curves(labels: NDArray[Any], probabilities: NDArray[Any]) -> Curves:
    """Compute one-vs-rest precision-recall curves; their end (0, 1) has the threshold 1.0."""
    return _curves(labels, probabilities, _pr_curve)


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
