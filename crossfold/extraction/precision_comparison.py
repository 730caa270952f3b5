"""Compare int8 with float32: cross-validate a head on the head's input in both."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossfold.evaluation import metrics
from crossfold.evaluation.paired_interval import Outcomes, macro_f1_interval
from crossfold.network import determinism, openvino_engine
from crossfold.records import PrecisionComparison
from crossfold.training.head import MIN_STD

# A tenth of the images, within these bounds.
FEWEST, MOST = 256, 1024
# Divided by the number of images, the weight decay: in the middle of the range that params.yaml
# advises. The candidates' own would compute all features again whenever they change.
STRENGTH = 30
_MAX_PASSES = 1000
_MAX_GRADIENT = 1e-5
_NO_VARIANCE = 1e-10  # of the largest one: rounding errors

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
    with determinism.one_thread():
        for fold in np.unique(folds):
            held_out = folds == fold
            predicted[held_out] = _predict(values[~held_out], labels[~held_out], values[held_out])
    return predicted


def _predict(training: Values, labels: Numbers, validation: Values) -> Numbers:
    """Train a head on some images, and predict others.

    The minimum is that of `training.head.fit_head`. Here the weights are expressed by the principal
    components of the images, which are few, since the images are.
    """
    std = training.std(axis=0, dtype=np.float64)
    scale = np.maximum(std, MIN_STD * std.mean() or 1)
    scaled, others = ((rows - training.mean(axis=0)) / scale for rows in (training, validation))
    classes, targets = np.unique(labels, return_inverse=True)
    variances, components = _principal_components(scaled)
    decay = STRENGTH / len(scaled)
    # As in fit_head: the curvature is about 1 in each direction.
    curvature = variances / len(classes) + decay
    basis = components / np.sqrt(curvature)
    head = _fit(
        torch.from_numpy(scaled @ basis),
        torch.from_numpy(targets),
        len(classes),
        torch.from_numpy(decay / curvature),
    )
    with torch.inference_mode():
        chosen = head(torch.from_numpy(others @ basis)).argmax(dim=1).numpy()
    predicted: Numbers = classes[chosen]
    return predicted


def _principal_components(rows: Values) -> tuple[Values, Values]:
    """Compute the components of rows [N, C] with any variance: variances [R], directions [C, R].

    Uses products of the smaller side: a singular value decomposition takes several times as long.
    """
    is_wide = rows.shape[0] < rows.shape[1]
    squares, vectors = np.linalg.eigh(rows @ rows.T if is_wide else rows.T @ rows)
    kept = squares > _NO_VARIANCE * squares[-1]
    directions = rows.T @ vectors / np.sqrt(np.where(kept, squares, 1)) if is_wide else vectors
    return squares[kept] / len(rows), directions[:, kept]


def _fit(rows: Tensor, targets: Tensor, num_classes: int, decays: Tensor) -> nn.Linear:
    """Minimize mean cross-entropy + the penalties by L-BFGS in float64; `decays` by column."""
    head = nn.Linear(rows.shape[1], num_classes, dtype=torch.float64)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer: torch.optim.Optimizer = torch.optim.LBFGS(
        head.parameters(),
        max_iter=_MAX_PASSES,
        tolerance_grad=_MAX_GRADIENT,
        tolerance_change=0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def objective() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(rows), targets)
        loss = loss + (decays * head.weight.square()).sum() / 2
        torch.autograd.backward(loss)
        return float(loss.detach())

    optimizer.step(objective)
    return head
