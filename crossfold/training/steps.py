"""Train the suffix of a network on stored features: one fold, and the final fit."""

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from crossfold.errors import UserError
from crossfold.evaluation import metrics
from crossfold.labels import fold_metrics
from crossfold.network import backbone, cutting, determinism, safetensors_file, trained_network
from crossfold.records import (
    DivergedResult,
    FoldResult,
    FoldResults,
    Leaderboard,
    NamedCandidate,
    Scores,
)
from crossfold.settings import HEAD, PIXELS, Candidate
from crossfold.step.progress import Progress

from .feature_rows import FeatureRows
from .head import fit_head

# Side of an image from which on values that lie in memory channels last are trained faster.
CHANNELS_LAST_FROM = 128

Probabilities = np.ndarray[Any, np.dtype[np.float32]]


class DivergedError(Exception):
    """A fit whose loss or weights are no longer numbers."""

    def __init__(self, epoch: int | None) -> None:
        where = f" in epoch {epoch}" if epoch else ""
        super().__init__(f"diverges{where}: its loss is no number")
        self.epoch = epoch


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of a fit; a head ignores `num_epochs` and `batch_size`."""

    candidate: Candidate
    num_epochs: int
    batch_size: int
    seed: int
    precision: str

    @property
    def epochs(self) -> int | None:
        """Number of epochs; None for a head, which is trained to convergence."""
        return None if self.candidate.train_from == HEAD else self.num_epochs

    @property
    def computed_in(self) -> str:
        """Number format of the fit; a head gains nothing from fewer digits."""
        return "float32" if self.candidate.train_from == HEAD else self.precision


def train_fold(
    *,
    features: Path,
    backbone_weights: Path,
    architecture: str,
    fold: int,
    candidates: Sequence[dict[str, Any]],
    num_epochs: int,
    batch_size: int,
    seed: int,
    precision: str,
    num_threads: int,
    predictions: Path,
) -> tuple[FoldResult | DivergedResult, ...]:
    """Train every candidate on all folds but one and predict that one.

    Writes one safetensors file: `row` and `label`, int64 [M], and for each candidate that has not
    diverged `probabilities_<index>`, float32 [M, K], the out-of-fold probabilities. Its metadata
    are the `FoldResults`.
    """
    determinism.prepare(num_threads)
    arrays, about = safetensors_file.read(features)
    labels, folds = np.array(arrays["label"]), np.array(arrays["fold"])
    training, validation = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    results: list[FoldResult | DivergedResult] = []
    outputs = {"row": validation, "label": labels[validation]}
    untrained = backbone.pretrained_network(
        architecture, backbone_weights, len(about["classes"]), seed
    )
    progress = Progress(len(candidates), "candidates")
    for index, candidate in enumerate(Candidate(**values) for values in candidates):
        recipe = Recipe(candidate, num_epochs, batch_size, seed, precision)
        network = copy.deepcopy(untrained)
        rows = FeatureRows(arrays[candidate.train_from], labels, training)
        about_fit = {
            "candidate": NamedCandidate(name=candidate.name, **candidate.model_dump()),
            "fold": fold,
            "num_epochs": recipe.epochs,
        }
        try:
            history, probabilities = fit(
                trainable(network, candidate, rows),
                rows,
                replace(rows, rows=validation),
                recipe,
                partial(_report_share, progress, index),
            )
        except DivergedError as error:
            results.append(DivergedResult.model_validate({**about_fit, "diverged": error.epoch}))
            logging.warning("fold %d, %s: %s", fold, candidate.name, error)
        else:
            outputs[f"probabilities_{index}"] = probabilities
            scores = metrics.scores(labels[validation], probabilities)
            results.append(FoldResult.model_validate({**about_fit, "history": history, **scores}))
            logging.info("fold %d, %s: macro F1 %.4f", fold, candidate.name, scores["macro_f1"])
        progress.report(index + 1)
    found = FoldResults(classes=about["classes"], results=tuple(results))
    safetensors_file.write(predictions, outputs, found.model_dump())
    return found.results


def _report_share(progress: Progress, done: int, share: float) -> None:
    progress.report(done + share)


def train_final(
    *,
    features: Path,
    backbone_weights: Path,
    architecture: str,
    leaderboard: Path,
    num_epochs: int,
    batch_size: int,
    seed: int,
    precision: str,
    num_threads: int,
    model: Path,
) -> Scores:
    """Train the chosen candidate on every image outside the test split and write the network.

    It is trained as in each fold, for the same number of epochs.

    Returns:
        The fold metrics of the trained network on the training images.

    Raises:
        UserError: the fit diverges; no network is written then.
    """
    determinism.prepare(num_threads)
    board = Leaderboard.read(leaderboard)
    named = board.chosen.candidate
    candidate = Candidate(**named.hyper_parameters)
    arrays, about = safetensors_file.read(features)
    network = backbone.pretrained_network(
        architecture, backbone_weights, len(about["classes"]), seed
    )
    labels = np.array(arrays["label"])
    rows = FeatureRows(arrays[candidate.train_from], labels, np.arange(len(labels)))
    suffix = trainable(network, candidate, rows)
    recipe = Recipe(candidate, num_epochs, batch_size, seed, precision)
    progress = Progress(100, "percent")
    try:
        _, probabilities = fit(
            suffix, rows, None, recipe, lambda share: progress.report(100 * share)
        )
    except DivergedError as error:
        raise UserError(
            f"params.yaml candidates: {candidate.name} {error}. No fold did so, only the final "
            "fit, on more images. Lower its learning_rate."
        ) from None
    trained_network.save_network(
        model,
        network,
        architecture=architecture,
        classes=about["classes"],
        image_size=about["image_size"],
        candidate=named.model_dump(),
        precision=precision,
        temperature=board.temperature,
    )
    return _fold_scores(labels, probabilities)


def trainable(network: nn.Module, candidate: Candidate, rows: FeatureRows) -> nn.Module:
    """Return the part of the network that the candidate trains, sharing the network's weights."""
    suffix = cutting.suffix(cutting.trace(network), candidate.train_from)
    if candidate.train_from == PIXELS and rows.features.shape[1] >= CHANNELS_LAST_FROM:
        network.to(memory_format=torch.channels_last)
    return suffix


def fit(
    model: nn.Module,
    training: FeatureRows,
    validation: FeatureRows | None,
    recipe: Recipe,
    progress: Callable[[float], None],
) -> tuple[list[dict[str, float]], Probabilities]:
    """Train a head to convergence, and any other candidate for all its epochs.

    No epoch is picked by the validation images, so their scores are not biased by such a pick.

    Returns:
        The history, one entry an epoch with train_ and val_ of each fold metric (training
        figures are means over the epoch, while the weights move), and the trained model's
        probabilities of the validation images; without these, of the training images.

    Raises:
        DivergedError: the loss, or a probability, is no number.
    """
    if recipe.epochs is None:
        history: list[dict[str, float]] = []
        loss = fit_head(model, training, recipe.candidate.weight_decay, progress)
        if not math.isfinite(loss):
            raise DivergedError(None)
    else:
        history = _train_epochs(model, training, validation, recipe, progress)
    shown = training if validation is None else validation
    probabilities = evaluate(model, shown, recipe.computed_in)
    if not np.isfinite(probabilities).all():
        raise DivergedError(recipe.epochs)
    return history, probabilities


def _train_epochs(
    model: nn.Module,
    training: FeatureRows,
    validation: FeatureRows | None,
    recipe: Recipe,
    progress: Callable[[float], None],
) -> list[dict[str, float]]:
    """Train all epochs, with a learning rate that falls along a cosine over them."""
    optimizer = _optimizer(model, recipe.candidate)
    history = []
    for epoch in range(1, recipe.num_epochs + 1):
        _set_rate(optimizer, recipe.candidate, epoch, recipe.num_epochs)

        def of_epoch(share: float, done: int = epoch - 1) -> None:
            progress((done + share) / recipe.num_epochs)

        trained = train_one_epoch(
            model,
            optimizer,
            training,
            recipe.batch_size,
            (recipe.seed, epoch),
            recipe.computed_in,
            of_epoch,
        )
        entry = {"epoch": epoch, **{f"train_{name}": value for name, value in trained.items()}}
        if validation is not None:
            probabilities = evaluate(model, validation, recipe.computed_in)
            validated = _fold_scores(validation.labels[validation.rows], probabilities)
            entry |= {f"val_{name}": value for name, value in validated.items()}
        if not all(math.isfinite(value) for value in entry.values()):
            raise DivergedError(epoch)
        history.append(entry)
    return history


def train_one_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: FeatureRows,
    batch_size: int,
    seed: tuple[int, int],
    precision: str,
    progress: Callable[[float], None] = lambda share: None,
) -> Scores:
    """Take one optimizer step per batch; `seed` is the run's seed and the epoch.

    Order and dropout are drawn independently for each pair, by numpy's SeedSequence: seed + epoch
    would make one run's second epoch another run's first.

    Returns:
        The fold metrics over the epoch's images, each predicted before its step.
    """
    model.train()
    order_seed, dropout_seed = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    order = np.random.default_rng(order_seed).permutation(len(rows.rows))
    torch.manual_seed(int(dropout_seed))  # dropout draws from the global generator
    probabilities, done = [], 0
    for features, labels in rows.batches(batch_size, order):
        with determinism.at_precision(precision):
            logits = model(features).float()
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        probabilities.append(logits.detach().softmax(dim=1).numpy())
        done += len(labels)
        progress(done / len(order))
    return _fold_scores(rows.labels[rows.rows[order]], np.concatenate(probabilities))


def _fold_scores(labels: np.ndarray[Any, Any], probabilities: Probabilities) -> Scores:
    """Compute the scores that cross-validation follows from epoch to epoch."""
    scores = metrics.scores(labels, probabilities)
    return {metric.name: scores[metric.name] for metric in fold_metrics()}


@torch.inference_mode()
def evaluate(model: nn.Module, rows: FeatureRows, precision: str) -> Probabilities:
    """Predict probabilities float32 [M, K], in the order of the rows, as `metrics.floored`."""
    model.eval()
    with determinism.at_precision(precision):
        outputs = [model(features).float().softmax(dim=1) for features, _ in rows.batches(256)]
    return metrics.floored(torch.cat(outputs).numpy())


def _optimizer(model: nn.Module, candidate: Candidate) -> torch.optim.Optimizer:
    """Build AdamW (Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101)."""
    assert candidate.learning_rate is not None
    return torch.optim.AdamW(
        model.parameters(),
        lr=candidate.learning_rate,
        weight_decay=candidate.weight_decay,
        fused=True,  # one pass over the weights; most of a step's time on small images
    )


def _set_rate(
    optimizer: torch.optim.Optimizer, candidate: Candidate, epoch: int, num_epochs: int
) -> None:
    """Set the learning rate on a cosine, from `learning_rate` in epoch 1 to near 0.

    Loshchilov and Hutter, "SGDR", 2017 (https://arxiv.org/abs/1608.03983), without restarts.
    """
    assert candidate.learning_rate is not None
    share = (1 + math.cos(math.pi * (epoch - 1) / num_epochs)) / 2
    for group in optimizer.param_groups:
        group["lr"] = candidate.learning_rate * share
