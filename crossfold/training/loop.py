"""The training loop: epochs, batches and the evaluation after each epoch."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crossfold.evaluation import metrics
from crossfold.network import determinism
from crossfold.network.views import mean_over_views
from crossfold.records import Scores

from .class_weights import class_weights
from .feature_rows import FeatureRows
from .learning_rate import cosine_schedule
from .recipe import Recipe

EVALUATION_BATCH_SIZE = 256

Probabilities = np.ndarray[Any, np.dtype[np.float32]]


class DivergedError(Exception):
    """A fit whose loss or weights became NaN or infinite; `epoch` is None for a head."""

    def __init__(self, epoch: int | None) -> None:
        where = f" in epoch {epoch}" if epoch else ""
        super().__init__(f"diverges{where}: its loss is NaN or infinite")
        self.epoch = epoch


def train_epochs(
    model: nn.Module,
    training: FeatureRows,
    validation: FeatureRows | None,
    recipe: Recipe,
    progress: Callable[[float], None],
) -> list[dict[str, float]]:
    """Train the model for all epochs; `progress` is told the share that is done.

    Returns:
        One entry per epoch, with train_ and, if there are validation rows, val_ of each fold
        metric. Training scores are means over the epoch, while the weights move.

    Raises:
        DivergedError: a score is NaN or infinite.
    """
    num_epochs = recipe.settings.num_epochs
    optimizer = adamw(model, recipe)
    schedule = cosine_schedule(optimizer, num_epochs)
    history = []
    for epoch in range(1, num_epochs + 1):

        def report(share: float, done: int = epoch - 1) -> None:
            progress((done + share) / num_epochs)

        scores = train_one_epoch(model, optimizer, training, recipe, epoch, report)
        entry = {"epoch": epoch, **{f"train_{name}": value for name, value in scores.items()}}
        if validation is not None:
            probabilities = evaluate(model, validation, recipe)
            scores = fold_scores(validation.labels[validation.rows], probabilities)
            entry |= {f"val_{name}": value for name, value in scores.items()}
        if not all(math.isfinite(value) for value in entry.values()):
            raise DivergedError(epoch)
        history.append(entry)
        schedule.step()
    return history


def adamw(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Build AdamW (Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101)."""
    assert recipe.candidate.learning_rate is not None
    return torch.optim.AdamW(
        model.parameters(),
        lr=recipe.candidate.learning_rate,
        weight_decay=recipe.candidate.weight_decay,
        fused=True,  # one pass over the weights; most of a step's time on small images
    )


def train_one_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: FeatureRows,
    recipe: Recipe,
    epoch: int,
    progress: Callable[[float], None] = lambda share: None,
) -> Scores:
    """Take one optimizer step per batch; each image is seen once, in one of its views.

    numpy's SeedSequence draws order, dropout and views independently for each pair of seed and
    epoch: with their sum, one run's second epoch would repeat another run's first.

    Returns:
        The fold metrics over the epoch's images, each predicted before its step.
    """
    model.train()
    seeds = np.random.SeedSequence((recipe.settings.seed, epoch))
    order_seed, dropout_seed, views_seed = seeds.generate_state(3, np.uint64)
    rows = rows.drawn(np.random.default_rng(views_seed))
    order = np.random.default_rng(order_seed).permutation(len(rows.rows))
    torch.manual_seed(int(dropout_seed))  # dropout and `DrawnViews` use the global generator
    weights = _class_weights(rows, recipe)
    probabilities, done = [], 0
    for features, labels in rows.batches(recipe.settings.batch_size, order):
        with determinism.at_precision(recipe.precision):
            logits = model(features).float()
        optimizer.zero_grad()
        torch.autograd.backward(_mean_loss(logits, labels, weights))
        optimizer.step()
        probabilities.append(logits.detach().softmax(dim=1).numpy())
        done += len(labels)
        progress(done / len(order))
    return fold_scores(rows.labels[rows.rows[order]], np.concatenate(probabilities))


def _class_weights(rows: FeatureRows, recipe: Recipe) -> Tensor | None:
    labels, num_classes = rows.labels[rows.rows], int(rows.labels.max()) + 1
    weights = class_weights(labels, num_classes, recipe.settings.class_weights)
    return None if weights is None else torch.from_numpy(weights).float()


def _mean_loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Compute the mean cross-entropy of a batch.

    A weighted sum is divided by the number of images, not by the batch's sum of weights as torch
    does: that would give a rare class less weight in the batches that have it.
    """
    if weights is None:
        return nn.functional.cross_entropy(logits, labels)
    return nn.functional.cross_entropy(logits, labels, weights, reduction="sum") / len(labels)


@torch.inference_mode()
def evaluate(model: nn.Module, rows: FeatureRows, recipe: Recipe) -> Probabilities:
    """Predict probabilities float32 [M, K] of M images' rows, in their order.

    They are means over the views if the settings say so, and as `metrics.floored`.
    """
    model.eval()
    num_views = 1 + len(recipe.settings.predicted_views)
    if num_views > 1:
        rows = rows.with_views()
    with determinism.at_precision(recipe.precision):
        batches = rows.batches(EVALUATION_BATCH_SIZE // num_views)
        outputs = [model(features).float().softmax(dim=1) for features, _ in batches]
    return metrics.floored(mean_over_views(torch.cat(outputs), num_views).numpy())


def fold_scores(labels: np.ndarray[Any, Any], probabilities: Probabilities) -> Scores:
    """Compute the metrics that cross-validation follows from epoch to epoch."""
    scores = metrics.scores(labels, probabilities)
    return {metric.name: scores[metric.name] for metric in metrics.fold_metrics()}
