"""Fit many heads quickly, with the objective of `training.head.fit_head`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from crossfold.evaluation import metrics
from crossfold.records import ClassWeights
from crossfold.training.class_weights import class_weights

# As in training.head, whose import would import torch.
MIN_STD = 0.1
_MAX_PASSES = 1000
_MAX_GRADIENT = 1e-4

Numbers = NDArray[np.int64]
Values = NDArray[Any]


@dataclass(frozen=True)
class ScaledRows:
    """Training and validation rows in the scale of the training rows, turned to principal axes.

    With fewer training rows than channels there are only as many axes as rows. The weights of a
    head with an L2 penalty have no part outside of them, so nothing is lost.

    Attributes:
        training: float64 [T, D].
        validation: float64 [V, D].
        labels: of the training rows, int64 [T].
        weights: of the training rows in the loss, float64 [T, 1], with the mean 1; or None.
        variances: of the training rows along the axes, with these weights, float64 [D].
    """

    training: Values
    validation: Values
    labels: Numbers
    weights: Values | None
    variances: Values

    @classmethod
    def of(
        cls,
        features: Values,
        labels: Numbers,
        training: Numbers,
        validation: Numbers,
        weighting: ClassWeights = ClassWeights.NONE,
    ) -> Self:
        """Scale rows of features [N, C] by their indices, as `training.head.Moments` does."""
        rows, others = (features[indices].astype(np.float64) for indices in (training, validation))
        weights = _of_rows(labels[training], weighting)
        mean, std = rows.mean(axis=0), rows.std(axis=0)
        scale = np.maximum(std, MIN_STD * std.mean() or 1)
        if weights is not None:
            mean = (rows * weights).mean(axis=0)
        rows, others = (rows - mean) / scale, (others - mean) / scale
        weighted = rows if weights is None else rows * np.sqrt(weights)
        if len(rows) < rows.shape[1]:
            lengths, left = np.linalg.eigh(weighted @ weighted.T)
            kept = lengths > 1e-10 * lengths[-1]
            axes = weighted.T @ (left[:, kept] / np.sqrt(lengths[kept]))
        else:
            lengths, axes = np.linalg.eigh(weighted.T @ weighted)
            kept = lengths > 1e-10 * lengths[-1]
            axes = axes[:, kept]
        variances = lengths[kept] / len(rows)
        return cls(rows @ axes, others @ axes, labels[training], weights, variances)

    def predict(self, weight_decay: float) -> Numbers:
        """Train a head on the training rows, and predict the validation rows, int64 [V].

        L-BFGS runs on weights that are scaled by a bound of the objective's curvature along each
        axis, as in `training.head.fit_head`.
        """
        classes, targets = np.unique(self.labels, return_inverse=True)
        one_hot = np.eye(len(classes))[targets]
        scale = np.sqrt(self.variances / len(classes) + weight_decay)[:, None]
        rows = self.training / scale.T
        shape = (rows.shape[1] + 1, len(classes))  # the last row is the bias

        def objective(flat: Values) -> tuple[float, Values]:
            weights, bias = np.split(flat.reshape(shape), [-1])
            logits = rows @ weights + bias
            logits -= logits.max(axis=1, keepdims=True)
            odds = np.exp(logits)
            sums = odds.sum(axis=1, keepdims=True)
            losses = np.log(sums[:, 0]) - (logits * one_hot).sum(axis=1)
            errors = (odds / sums - one_hot) / len(rows)
            if self.weights is not None:
                losses, errors = losses * self.weights[:, 0], errors * self.weights
            loss = float(losses.mean())
            decayed = weight_decay * weights / scale**2
            gradient = np.vstack([rows.T @ errors + decayed, errors.sum(axis=0)])
            return loss + float((decayed * weights).sum()) / 2, gradient.ravel()

        options = {"maxiter": _MAX_PASSES, "maxcor": 20, "gtol": _MAX_GRADIENT, "ftol": 0}
        start = np.zeros(shape[0] * shape[1])
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
        weights, bias = np.split(found.reshape(shape), [-1])
        predicted: Numbers = classes[(self.validation / scale.T @ weights + bias).argmax(axis=1)]
        return predicted


def _of_rows(labels: Numbers, weighting: ClassWeights) -> Values | None:
    weights = class_weights(labels, int(labels.max()) + 1, weighting)
    return None if weights is None else weights[labels][:, None]


def out_of_fold(
    features: Values,
    labels: Numbers,
    folds: Numbers,
    weight_decays: Values,
    weighting: ClassWeights = ClassWeights.NONE,
) -> Numbers:
    """Predict each image with heads that are trained on the other folds, int64 [H, N]."""
    predicted = np.empty((len(weight_decays), len(labels)), np.int64)
    for fold in np.unique(folds):
        held_out, others = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        rows = ScaledRows.of(features, labels, others, held_out, weighting)
        for head, weight_decay in zip(predicted, weight_decays, strict=True):
            head[held_out] = rows.predict(float(weight_decay))
    return predicted


def scores_of_folds(predicted: Numbers, labels: Numbers, folds: Numbers) -> NDArray[np.float64]:
    """Compute macro F1 of each head's predictions [H, N] on each fold, [H, F]."""
    num_classes = int(labels.max()) + 1
    return np.array(
        [
            [
                metrics.macro_f1(labels[folds == fold], head[folds == fold], num_classes)
                for fold in np.unique(folds)
            ]
            for head in predicted
        ]
    )
