"""The loop that everyone writes, written well: torchvision, a DataLoader, a frozen backbone.

Every image goes through the whole frozen network in every epoch of every fold, again for
validation, again in the final fit, and for the test. The backbone stays in evaluation mode: a
`model.train()` on it would move its batch normalization's statistics although no weight of it is
trained (https://github.com/pytorch/pytorch/issues/86590).

Head, order of the images and learning rate are those of the pipeline, from torch's own parts, so
that the predictions must be the same. The temperature of the probabilities is fitted by the
pipeline's own function, on the same out-of-fold predictions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.transforms import v2

from crossfold.data.examples import Examples
from crossfold.evaluation import calibration, metrics

from .dataset import CLASSES, Workload, Workspace

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NO_FOLD = -1  # the test split's
LOSS_TOLERANCE = 1e-4  # relative
IMAGES_PER_DIFFERENCE = 300  # in bfloat16, one prediction in so many may differ

Numbers = NDArray[np.int64]
Batches = Iterable[tuple[Tensor, ...]]


class Split(NamedTuple):
    """The labels [M] and probabilities [M, K] of one split."""

    labels: Numbers
    probabilities: NDArray[np.float32]


Outcome = list[Split]  # out of fold, of each fold; of the test


def count_different(expected: Outcome, outcome: Outcome) -> int:
    """Count the predictions that differ."""
    one, other = (
        np.concatenate([split.probabilities.argmax(axis=1) for split in splits])
        for splits in (expected, outcome)
    )
    return int((one != other).sum())


def disagreement(expected: Outcome, outcome: Outcome, precision: str) -> str | None:
    """Say how the predictions differ by more than the precision allows; None if they agree.

    In float32, none may differ, and losses only by rounding. In int8 nothing is promised: the
    backbone's weights are random, and so are its classes' margins.
    """
    different = count_different(expected, outcome)
    number = sum(len(split.labels) for split in expected)
    allowed = {"float32": 0, "bfloat16": max(1, number // IMAGES_PER_DIFFERENCE)}
    if different > allowed.get(precision, number):
        return f"{different} of {number} predictions differ in {precision}"
    loss, other_loss = (
        [metrics.scores(*split)["loss"] for split in splits] for splits in (expected, outcome)
    )
    if precision == "float32" and not np.allclose(loss, other_loss, rtol=LOSS_TOLERANCE, atol=0):
        return f"the losses differ: {loss} and {other_loss}"
    return None


class Photos(Dataset[tuple[Tensor, ...]]):
    """Files, whose centre square is decoded each time: uint8 [3, size, size], and a label."""

    def __init__(self, paths: Sequence[Path], labels: Numbers, size: int) -> None:
        self.paths, self.labels, self.size = paths, torch.from_numpy(labels), size

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        with Image.open(self.paths[index]) as photo:
            image = photo.convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        square = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        return v2.functional.pil_to_tensor(square), self.labels[index]


@dataclass(frozen=True)
class Data:
    """Images in the table's order; `folds` has NO_FOLD for those of the test split."""

    images: Dataset[tuple[Tensor, ...]]
    labels: Numbers
    folds: Numbers
    batch_size: int
    num_workers: int = 0

    def batches(self, rows: Numbers) -> Batches:
        """Load (images [B, …], labels [B]) of some rows, in their order."""
        subset = Subset(self.images, rows.tolist())
        return DataLoader(subset, self.batch_size, num_workers=self.num_workers)


def open_data(workspace: Workspace, num_workers: int = 0) -> Data:
    """Open the images of a table, to be decoded from their files each time."""
    table, workload = Examples(workspace.examples), workspace.workload
    labels, folds = (table.column(name, None).astype(np.int64) for name in ("label", "fold"))
    paths = [workspace.photos / path for path in table.column("path", None)]
    photos = Photos(paths, labels, workload.image_size)
    return Data(photos, labels, folds, workload.fit.batch_size, num_workers)


def frozen_backbone(weights: Path) -> nn.Sequential:
    """Build a ResNet18 without its head; uint8 pixels [N, 3, S, S] in, features [N, 512] out."""
    network = torchvision.models.resnet18()
    network.load_state_dict(safetensors.torch.load_file(weights), strict=False)
    network.fc = nn.Identity()
    preprocessing = v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)
    return nn.Sequential(*preprocessing, network).requires_grad_(False).eval()


class Classifier:
    """A frozen backbone and a trained head, as torchvision draws it from a seed."""

    def __init__(self, backbone: nn.Module, workload: Workload) -> None:
        torch.manual_seed(workload.fit.seed)
        self.backbone = backbone
        self.head: nn.Linear = torchvision.models.resnet18(num_classes=len(CLASSES)).fc
        assert workload.candidate.learning_rate is not None
        self.optimizer = torch.optim.AdamW(
            self.head.parameters(),
            lr=workload.candidate.learning_rate,
            weight_decay=workload.candidate.weight_decay,
            fused=True,
        )

    def train_one_epoch(self, batches: Batches) -> None:
        """Take one optimizer step per batch."""
        for images, labels in batches:
            with torch.no_grad():
                features = self.backbone(images)
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.head(features), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    @torch.inference_mode()
    def predict(self, batches: Batches) -> NDArray[np.float32]:
        """Predict probabilities [M, K]."""
        logits = [self.head(self.backbone(images)) for images, _ in batches]
        probabilities: NDArray[np.float32] = torch.cat(logits).softmax(dim=1).numpy()
        return probabilities


def run(backbone: nn.Module, data: Data, workload: Workload) -> Outcome:
    """Cross-validate one head, fit it on every image outside the test split, and test it.

    With features as the data's images and an identity as the backbone, the very same loop runs
    with each image computed once.
    """
    splits, num_epochs = [], workload.fit.num_epochs
    for held_out in (*range(workload.split.num_folds), NO_FOLD):
        training = np.flatnonzero((data.folds != held_out) & (data.folds != NO_FOLD))
        rows = np.flatnonzero(data.folds == held_out)
        model = Classifier(backbone, workload)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(model.optimizer, num_epochs)
        for epoch in range(1, num_epochs + 1):
            seeds = np.random.SeedSequence((workload.fit.seed, epoch))
            draw = np.random.default_rng(seeds.generate_state(1, np.uint64)[0])
            model.train_one_epoch(data.batches(draw.permutation(training)))
            rate.step()
            if held_out != NO_FOLD or epoch == num_epochs:
                probabilities = model.predict(data.batches(rows))
        splits.append(Split(data.labels[rows], probabilities))
    *folds, test = splits
    temperature = calibration.fit_temperature(*map(np.concatenate, zip(*folds, strict=True)))
    return [*folds, Split(test.labels, calibration.tempered(test.probabilities, temperature))]


@torch.inference_mode()
def all_features(backbone: nn.Module, data: Data) -> Tensor:
    """Compute every image's features [N, C], each once."""
    every = np.arange(len(data.labels))
    return torch.cat([backbone(images) for images, _ in data.batches(every)])


def num_passes(workspace: Workspace) -> tuple[int, int]:
    """Count the images that go through the network to train, and only to predict.

    Together E·N·(K+1)+T: each epoch of each fold trains on N·(K-1)/K images and validates on the
    other N/K, each epoch of the final fit trains on all N.
    """
    epochs, folds = workspace.workload.fit.num_epochs, workspace.workload.split.num_folds
    num_train, num_test = workspace.num_images()
    return epochs * num_train * folds, epochs * num_train + num_test
