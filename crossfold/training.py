"""Training the suffix of a network on stored features: one fold, and the final fit."""

import copy
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crossfold import backbone, compute, metrics, tensorfile
from crossfold.errors import UserError
from crossfold.progress import report_progress
from crossfold.settings import HEAD, PIXELS, Candidate

# Side of an image from which on values that lie in memory channels last are trained faster.
CHANNELS_LAST_FROM = 128

Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class FeatureRows:
    """Rows of stored features: what a training or validation split is made of.

    `features` is [N, …] as extract_features wrote it, mapped from the file; `labels` int64 [N];
    `rows` int64 [M] says which of them belong to the split.
    """

    features: tensorfile.Array
    labels: Indices
    rows: Indices

    def batches(self, size: int, order: Indices | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (features [B, …], labels [B]); `order` is a permutation of range(M)."""
        rows = self.rows if order is None else self.rows[order]
        starts = list(range(0, len(rows), size))
        if len(starts) > 1 and len(rows) - starts[-1] == 1:
            starts.pop()  # batch normalization cannot train on one image: it joins the batch before
        for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
            chosen = rows[start:end]
            yield torch.from_numpy(self.features[chosen]), torch.from_numpy(self.labels[chosen])


def train_fold(
    *,
    features: Path,
    backbone_weights: Path,
    architecture: str,
    fold: int,
    candidates: Sequence[dict[str, Any]],
    num_epochs: int,
    batch_size: int,
    patience: int,
    seed: int,
    precision: str,
    num_threads: int,
    predictions: Path,
) -> list[dict[str, Any]]:
    """Train every candidate on all folds but one and predict that one.

    A candidate stops when its validation loss has not fallen for `patience` epochs; its epoch with
    the lowest validation loss counts. Writes one tensorfile: `row` and `label`, int64 [M], and per
    candidate `probabilities_<index>`, float32 [M, K], the out-of-fold probabilities; the results
    are its metadata.

    Returns:
        Per candidate its scores on the fold, best_epoch and history (see `fit`).
    """
    compute.prepare(num_threads)
    arrays, about = tensorfile.read(features)
    labels, folds = np.array(arrays["label"]), np.array(arrays["fold"])
    training, validation = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    results, outputs = [], {"row": validation, "label": labels[validation]}
    untrained = backbone.pretrained_network(
        architecture, backbone_weights, len(about["classes"]), seed
    )
    for index, candidate in enumerate(Candidate(**values) for values in candidates):
        network = copy.deepcopy(untrained)
        rows = FeatureRows(arrays[candidate.train_from], labels, training)
        history, best = fit(
            trainable(network, candidate, rows),
            rows,
            replace(rows, rows=validation),
            candidate,
            num_epochs=num_epochs,
            batch_size=batch_size,
            patience=patience,
            seed=seed,
            precision=_precision(candidate, precision),
            progress=(index * num_epochs, len(candidates) * num_epochs),
        )
        outputs[f"probabilities_{index}"] = best.probabilities
        results.append(
            {
                "candidate": {"name": candidate.name, **candidate.model_dump()},
                "fold": fold,
                "best_epoch": best.epoch,
                "history": history,
                **metrics.scores(labels[validation], best.probabilities),
            }
        )
        logging.info("fold %d, %s: macro F1 %.4f", fold, candidate.name, results[-1]["macro_f1"])
    tensorfile.write(predictions, outputs, {"classes": about["classes"], "results": results})
    return results


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
) -> dict[str, Any]:
    """Train the chosen candidate on every image outside the test split and write the network.

    There is no validation split left to stop by: it trains for the number of epochs that was best
    in cross-validation, on average over the folds, with the learning rate falling as it did there.

    Returns:
        num_epochs, and loss, accuracy and macro_f1 on the training images in the last epoch.
    """
    compute.prepare(num_threads)
    chosen = json.loads(leaderboard.read_text())
    values = chosen["candidates"][chosen["best"]]["candidate"]
    candidate = Candidate(**{key: values[key] for key in Candidate.model_fields})
    arrays, about = tensorfile.read(features)
    network = backbone.pretrained_network(
        architecture, backbone_weights, len(about["classes"]), seed
    )
    labels = np.array(arrays["label"])
    rows = FeatureRows(arrays[candidate.train_from], labels, np.arange(len(labels)))
    suffix = trainable(network, candidate, rows)
    optimizer = _optimizer(suffix, candidate)
    for epoch in range(1, chosen["num_epochs"] + 1):
        _set_rate(optimizer, candidate, epoch, num_epochs)
        last = train_one_epoch(
            suffix, optimizer, rows, batch_size, seed + epoch, _precision(candidate, precision)
        )
        report_progress(epoch, chosen["num_epochs"], "epochs")
    if isinstance(suffix, StandardizedHead):
        suffix.absorb()
    backbone.save_network(
        model,
        network,
        architecture=architecture,
        classes=about["classes"],
        image_size=about["image_size"],
        candidate=values,
        precision=precision,
        temperature=chosen["temperature"],
    )
    return {"num_epochs": chosen["num_epochs"], **last}


def _precision(candidate: Candidate, precision: str) -> str:
    """Return what the candidate is trained in: a classifier alone gains nothing by fewer digits."""
    return "float32" if candidate.train_from == HEAD else precision


def trainable(network: nn.Module, candidate: Candidate, rows: FeatureRows) -> nn.Module:
    """Return the part of the network that the candidate trains, sharing the network's weights."""
    suffix = backbone.suffix(backbone.trace(network), candidate.train_from)
    if candidate.train_from == PIXELS and rows.features.shape[1] >= CHANNELS_LAST_FROM:
        network.to(memory_format=torch.channels_last)
    if candidate.train_from == HEAD:
        return StandardizedHead(suffix, network.get_submodule(backbone.head_name(network)), rows)
    return suffix


class StandardizedHead(nn.Module):
    """A classifier on features scaled to mean 0 and variance 1 over the training rows.

    A linear classifier learns slowly, or not well, from features whose means are far from 0 and
    whose scales differ, as a frozen network's are (LeCun, Bottou, Orr and Müller, "Efficient
    BackProp", 1998, section 4.3). Once trained, the scaling becomes part of the head's weights.
    """

    def __init__(self, suffix: nn.Module, head: nn.Module, rows: FeatureRows) -> None:
        super().__init__()
        assert isinstance(head, nn.Linear | nn.Conv2d)
        self.suffix, self.head = suffix, head
        self.mean, self.std = _moments(rows)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [N, K] for features [N, C] or [N, C, H, W]."""
        shape = (1, -1, *(1 for _ in features.shape[2:]))
        logits: Tensor = self.suffix((features - self.mean.view(shape)) / self.std.view(shape))
        return logits

    @torch.no_grad()
    def absorb(self) -> None:
        """Write the scaling into the head, which from then on takes the features themselves."""
        weight, bias = self.head.weight, self.head.bias
        assert bias is not None and weight.shape[2:].numel() == 1
        weight /= self.std.view(1, -1, *(1 for _ in weight.shape[2:]))
        bias -= weight.flatten(1) @ self.mean


def _moments(rows: FeatureRows) -> tuple[Tensor, Tensor]:
    """Return each channel's mean and standard deviation, [C]; of a constant one, 1."""
    count, total, squares = 0, torch.zeros(1).double(), torch.zeros(1).double()
    for features, _ in rows.batches(256):
        values = features.transpose(0, 1).flatten(1).double()
        count += values.shape[1]
        total, squares = total + values.sum(1), squares + values.square().sum(1)
    mean = total / count
    variance = squares / count - mean.square()
    std = torch.where(variance > 1e-12, variance.clamp_min(0).sqrt(), 1.0)
    return mean.float(), std.float()


@dataclass(frozen=True)
class BestEpoch:
    """The epoch with the lowest validation loss; probabilities float32 [M, K] of that split."""

    epoch: int
    loss: float
    probabilities: np.ndarray[Any, np.dtype[np.float32]]


def fit(
    model: nn.Module,
    training: FeatureRows,
    validation: FeatureRows,
    candidate: Candidate,
    *,
    num_epochs: int,
    batch_size: int,
    patience: int,
    seed: int,
    precision: str,
    progress: tuple[int, int],
) -> tuple[list[dict[str, float]], BestEpoch]:
    """Train until the validation loss stops falling.

    Returns:
        The history, one entry an epoch with train_ and val_ loss, accuracy and macro_f1 (training
        figures are means over the epoch, while the weights move), and the best epoch.

    Raises:
        UserError: the candidate diverges in its first epoch.
    """
    optimizer = _optimizer(model, candidate)
    history: list[dict[str, float]] = []
    best: BestEpoch | None = None
    done, total = progress
    for epoch in range(1, num_epochs + 1):
        _set_rate(optimizer, candidate, epoch, num_epochs)
        trained = train_one_epoch(model, optimizer, training, batch_size, seed + epoch, precision)
        probabilities = evaluate(model, validation, precision)
        validated = metrics.scores(validation.labels[validation.rows], probabilities)
        if not math.isfinite(validated["loss"]):
            if best is None:
                raise UserError(
                    f"params.yaml candidates: {candidate.name} diverges: its loss is no number "
                    "after the first epoch. Lower its learning_rate."
                )
            break
        history.append(
            {
                "epoch": epoch,
                **{f"train_{name}": value for name, value in trained.items()},
                **{f"val_{name}": validated[name] for name in trained},
            }
        )
        report_progress(done + epoch, total, "epochs")
        if best is None or validated["loss"] < best.loss:
            best = BestEpoch(epoch, validated["loss"], probabilities)
        if epoch - best.epoch >= patience:
            break
    assert best is not None
    return history, best


def train_one_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: FeatureRows,
    batch_size: int,
    seed: int,
    precision: str,
) -> dict[str, float]:
    """Take one optimizer step per batch, in an order drawn from `seed`.

    Returns:
        loss, accuracy and macro_f1 over the epoch's images, each predicted before its step.
    """
    model.train()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(rows.rows), generator=generator).numpy()
    probabilities = []
    torch.manual_seed(seed)  # dropout draws from the global generator
    for features, labels in rows.batches(batch_size, order):
        with compute.at_precision(precision):
            logits = model(features).float()
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        probabilities.append(logits.detach().softmax(dim=1).numpy())
    scored = metrics.scores(rows.labels[rows.rows[order]], np.concatenate(probabilities))
    return {name: scored[name] for name in ("loss", "accuracy", "macro_f1")}


@torch.inference_mode()
def evaluate(
    model: nn.Module, rows: FeatureRows, precision: str
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return probabilities float32 [M, K], in the order of the rows."""
    model.eval()
    with compute.at_precision(precision):
        outputs = [model(features).float().softmax(dim=1) for features, _ in rows.batches(256)]
    return torch.cat(outputs).numpy()


def _optimizer(model: nn.Module, candidate: Candidate) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101)."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=candidate.learning_rate,
        weight_decay=candidate.weight_decay,
        fused=True,  # one pass over the weights; most of a step's time on small images
    )


def _set_rate(
    optimizer: torch.optim.Optimizer, candidate: Candidate, epoch: int, num_epochs: int
) -> None:
    """Let the learning rate fall along a cosine, from `learning_rate` in epoch 1 to near 0.

    Loshchilov and Hutter, "SGDR", 2017 (https://arxiv.org/abs/1608.03983), without restarts.
    """
    share = (1 + math.cos(math.pi * (epoch - 1) / num_epochs)) / 2
    for group in optimizer.param_groups:
        group["lr"] = candidate.learning_rate * share
