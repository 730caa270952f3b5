"""Fit the head: multinomial logistic regression on features of a frozen network."""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossfold.network import cutting
from crossfold.records import ClassWeights

from .class_weights import class_weights
from .feature_rows import FeatureRows

# A channel's standard deviation counts as at least this share of the channels' mean one.
MIN_STD = 0.1
# Of the objective by the preconditioned weights, whose curvature is near 1 or below.
MAX_GRADIENT = 1e-5
MAX_PASSES = 1000  # over the training rows
MAX_NUMBERS = 2**22  # float64 of a batch of features or logits: 32 MiB


@dataclass(frozen=True)
class Moments:
    """Each channel's mean and standard deviation, float64 [C], and the correlations [C, C].

    With weights of the classes, the mean and the correlations are weighted, as the loss is.
    """

    mean: Tensor
    std: Tensor
    correlation: Tensor

    @classmethod
    def of(cls, rows: FeatureRows, weights: Tensor | None = None) -> "Moments":
        """Compute them over the rows, and over all positions of a feature map.

        A channel that hardly varies gets a larger standard deviation than it has: in another image
        it may have any value, which must not outweigh all other channels. The standard deviations
        are never weighted, so that the penalty means the same with weights as without.
        """
        mean, covariance = _mean_and_covariance(rows, None)
        std = covariance.diagonal().clamp_min(0).sqrt()
        floor = MIN_STD * float(std.mean())
        std = std.clamp_min(floor) if floor > 0 else torch.ones_like(std)
        if weights is not None:
            mean, covariance = _mean_and_covariance(rows, weights)
        return cls(mean, std, covariance / std / std.unsqueeze(1))


def _mean_and_covariance(rows: FeatureRows, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute the mean [C] and the covariance [C, C]; the weights have the mean 1 over the rows."""
    count, total = 0, torch.zeros(())
    for values, of_values in _by_channel(rows, weights):
        weighted = values if of_values is None else values * of_values
        count, total = count + len(values), total + weighted.sum(0)
    mean = total / count
    products = torch.zeros(())
    for values, of_values in _by_channel(rows, weights):
        values -= mean
        weighted = values if of_values is None else values * of_values
        products = products + values.T @ weighted
    return mean, products / count


def _by_channel(
    rows: FeatureRows, weights: Tensor | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield values float64 [B, C], a row for each image or position of its map, and weights [B, 1].

    `weights` are of the classes; without them, the values have none.
    """
    for features, labels in rows.batches(_batch_size(rows)):
        values = features.movedim(1, -1).flatten(0, -2).double()
        if weights is None:
            yield values, None
        else:
            yield values, weights[labels].repeat_interleave(len(values) // len(labels))[:, None]


def _batch_size(rows: FeatureRows, num_classes: int = 1) -> int:
    per_image: int = max(math.prod(rows.features.shape[1:]), num_classes)
    return max(2, MAX_NUMBERS // per_image)


def fit_head(
    suffix: nn.Module,
    rows: FeatureRows,
    weight_decay: float,
    progress: Callable[[float], None],
    weighting: ClassWeights = ClassWeights.NONE,
) -> float:
    """Minimize mean cross-entropy + weight_decay/2 · ‖W‖² by L-BFGS in float64.

    The mean is weighted by the classes if `weighting` says so, see `class_weights`.

    W are the weights on features scaled to mean 0 and variance 1 over the rows; the bias is not
    penalized. The scaling is part of the weights that the suffix's one layer ends with, in float32.
    For a linear layer the minimum is the only one, whatever the initial weights. Memory holds a few
    batches, C² numbers and some fifty times the weights, whatever the number of images. `progress`
    is told the share of MAX_PASSES that is done, and 1 at the end. Returns the minimum.

    L-BFGS: Liu and Nocedal, "On the limited memory BFGS method for large scale optimization",
    1989. It runs on V = W·L, where L·Lᵀ = correlation/K + weight_decay: with that, an upper bound
    of the Hessian (Böhning, "Multinomial logistic regression algorithm", 1992) is about 1. In a
    weighted loss each image's part of the Hessian has its weight, so the correlation has it too.
    """
    head = suffix.double().eval().get_submodule(cutting.head_name(suffix))
    assert isinstance(head, nn.Linear | nn.Conv2d) and head.weight.shape[2:].numel() == 1
    layer_weight, layer_bias = head.weight, head.bias
    assert layer_bias is not None
    weights = _as_tensor(class_weights(rows.labels[rows.rows], len(layer_weight), weighting))
    moments = Moments.of(rows, weights)
    size = _batch_size(rows, len(layer_weight))
    identity = torch.eye(len(moments.std), dtype=torch.float64)
    factor = torch.linalg.cholesky(
        moments.correlation / len(layer_weight) + weight_decay * identity
    )
    scaled = (layer_weight.detach().flatten(1) @ factor).requires_grad_()
    bias = layer_bias.detach().clone().requires_grad_()
    optimizer: torch.optim.Optimizer = torch.optim.LBFGS(
        [scaled, bias],
        max_iter=MAX_PASSES,
        max_eval=MAX_PASSES,
        tolerance_grad=MAX_GRADIENT,
        tolerance_change=0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    passes = 0

    @torch.no_grad()
    def objective() -> float:
        """Compute the objective, and leave its gradient in `scaled` and `bias`."""
        nonlocal passes
        passes += 1
        progress(passes / MAX_PASSES)
        weight = torch.linalg.solve_triangular(factor, scaled, upper=False, left=False)
        unscaled = weight / moments.std
        layer_weight.copy_(unscaled.view_as(layer_weight))
        layer_bias.copy_(bias - unscaled @ moments.mean)
        loss = _mean_loss(suffix, rows, size, weights)
        assert layer_weight.grad is not None and layer_bias.grad is not None
        gradient = layer_weight.grad.flatten(1) - torch.outer(layer_bias.grad, moments.mean)
        gradient = gradient / moments.std + weight_decay * weight
        gradient = torch.linalg.solve_triangular(factor.T, gradient, upper=True, left=False)
        scaled.grad, bias.grad = gradient.contiguous(), layer_bias.grad.clone()
        return float(loss + weight_decay / 2 * weight.square().sum())

    optimizer.step(objective)
    loss = objective()
    left = max(float(one.grad.abs().max()) for one in (scaled, bias) if one.grad is not None)
    logging.info("head: %d passes, objective %.6f, gradient %.1e", passes, loss, left)
    suffix.float()
    progress(1)
    return loss


def _as_tensor(weights: NDArray[np.float64] | None) -> Tensor | None:
    return None if weights is None else torch.from_numpy(weights)


@torch.enable_grad()
def _mean_loss(
    suffix: nn.Module, rows: FeatureRows, size: int, class_weights: Tensor | None
) -> Tensor:
    """Compute the mean cross-entropy, and leave its gradient in the suffix's weights."""
    suffix.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for features, labels in rows.batches(size):
        losses = nn.functional.cross_entropy(
            suffix(features.double()), labels, class_weights, reduction="sum"
        )
        loss = losses / len(rows.rows)
        torch.autograd.backward(loss)
        total += loss.detach()
    return total
