"""Compare int8 with float32: cross-validate a head on the head's input in both."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from crossfold.evaluation import metrics
from crossfold.evaluation.paired_interval import Outcomes, macro_f1_interval
from crossfold.network import openvino_engine
from crossfold.records import PrecisionComparison
from crossfold.training.head import MIN_STD

# A tenth of the images, within these bounds.
FEWEST, MOST = 256, 1024
# Divided by the number of images, the weight decay: in the middle of the range that params.yaml
# advises. The candidates' own would compute all features again whenever they change.
STRENGTH = 30
_MAX_PASSES = 1000
_MAX_GRADIENT = 1e-5

Numbers = NDArray[np.int64]
Values = NDArray[Any]


def num_compared(num_images: int) -> int:
    """Choose the number of images to compare on.

    Few do not tell a small loss from none: if no prediction differs, the interval of 256 images
    ends at -0.014, that of 1024 images at -0.004.
    """
    return min(num_images, max(FEWEST, min(num_images // 10, MOST)))


def compare(
    float32: Values, int8: Values, labels: Numbers, folds: Numbers, num_classes: int
) -> PrecisionComparison:
    """Compare the out-of-fold predictions of heads on float32 and on int8 values, [N, C] each."""
    exact, rounded = (out_of_fold(values, labels, folds) for values in (float32, int8))
    outcomes = Outcomes.tally(labels, rounded, exact)
    float32_f1, int8_f1 = (metrics.macro_f1(labels, p, num_classes) for p in (exact, rounded))
    return PrecisionComparison(
        num_images=len(labels),
        float32_macro_f1=float32_f1,
        int8_macro_f1=int8_f1,
        difference=int8_f1 - float32_f1,
        interval=macro_f1_interval(outcomes, num_classes),
        num_different=int((exact != rounded).sum()),
        p_value=metrics.mcnemar(labels, rounded, exact).p_value,
    )


def heads_inputs(
    graphs: Iterable[tuple[openvino.Model, str]], batches: Iterable[Values], num_threads: int
) -> list[Values]:
    """Compute the only output of graphs in their precisions: [N, C] each, means over positions."""
    computed = [openvino_engine.compiled(graph, way, num_threads) for graph, way in graphs]
    of_batches = [[_by_channel(compute(batch)[0]) for compute in computed] for batch in batches]
    return [np.concatenate(of_graph) for of_graph in zip(*of_batches, strict=True)]


def _by_channel(values: Values) -> Values:
    means: Values = values.reshape(*values.shape[:2], -1).mean(axis=2)
    return means


def out_of_fold(values: Values, labels: Numbers, folds: Numbers) -> Numbers:
    """Predict the class of each image with a head that is trained on the other folds, int64 [N]."""
    predicted = np.empty_like(labels)
    for fold in np.unique(folds):
        held_out = folds == fold
        predicted[held_out] = _predict(values[~held_out], labels[~held_out], values[held_out])
    return predicted


def _predict(training: Values, labels: Numbers, validation: Values) -> Numbers:
    """Train a head as `training.head.fit_head` does on some images, and predict others."""
    num_classes = len(np.unique(labels))
    if num_classes == 1:
        return np.full(len(validation), labels[0])
    std = training.std(axis=0, dtype=np.float64)
    scale = np.maximum(std, MIN_STD * std.mean() or 1)
    scaled, others = ((rows - training.mean(axis=0)) / scale for rows in (training, validation))
    # C is 1 / (weight decay · number of images). For two classes, scikit-learn has one vector of
    # weights in place of two opposite ones of half the length: its penalty is twice as high.
    penalty = STRENGTH / 2 if num_classes == 2 else STRENGTH
    head = LogisticRegression(C=1 / penalty, tol=_MAX_GRADIENT, max_iter=_MAX_PASSES)
    predicted: Numbers = head.fit(scaled, labels).predict(others)
    return predicted
