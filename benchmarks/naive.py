"""The loop that everyone writes, written well: torchvision, a DataLoader, a frozen backbone.

Every image goes through the whole frozen network in every epoch of every fold, again for
validation, again in the final fit, and for the test. The backbone stays in evaluation mode: a
`model.train()` on it would move its batch normalization's statistics although no weight of it is
trained (https://github.com/pytorch/pytorch/issues/86590).

Classifier, order of the images and learning rate are those of the pipeline, from torch's own parts,
so that the predictions must be the same. The temperature of the probabilities is fitted by the
pipeline's own function, on the same out-of-fold predictions.
"""

from collections.abc import Sequence
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
from torchvision.transforms.v2 import functional

from crossfold.data.examples import Examples
from crossfold.evaluation import calibration, metrics

from .dataset import CLASSES, Workload, Workspace

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NO_FOLD = -1  # the test split's
LOSS_TOLERANCE = 1e-4  # relative
IMAGES_PER_DIFFERENCE = 300  # in bfloat16, one prediction in so many may differ

Numbers = NDArray[np.int64]
Images = Dataset[tuple[Tensor, ...]]


class Split(NamedTuple):
    """The labels [M] and probabilities [M, K] of one split."""

    labels: Numbers
    probabilities: NDArray[np.float32]


Outcome = list[Split]  # out of fold, of each fold; of the test


def count_different(expected: Outcome, outcome: Outcome, precision: str) -> int:
    """Count the predictions that differ.

    Raises:
        SystemExit: any does in float32, or a loss beyond its roundings; in bfloat16 too many do.
    """
    one, other = (
        np.concatenate([probabilities.argmax(axis=1) for _, probabilities in splits])
        for splits in (expected, outcome)
    )
    different = int((one != other).sum())
    allowed = 0 if precision == "float32" else max(1, len(one) // IMAGES_PER_DIFFERENCE)
    if different > allowed:
        raise SystemExit(f"{different} of {len(one)} predictions differ in {precision}")
    loss, found = (
        np.array([metrics.scores(*split)["loss"] for split in splits])
        for splits in (expected, outcome)
    )
    if precision == "float32" and not np.allclose(loss, found, rtol=LOSS_TOLERANCE, atol=0):
        raise SystemExit(f"the losses differ: {loss} and {found}")
    return different


@dataclass(frozen=True)
class Data:
    """Images in the table's order; `folds` has NO_FOLD for those of the test split."""

    images: Images
    labels: Numbers
    folds: Numbers
    num_workers: int = 0

    def batches(self, rows: Numbers, batch_size: int) -> DataLoader[tuple[Tensor, ...]]:
        """Load (uint8 pixels [B, S, S, 3], labels [B]) of some rows, in their order."""
        subset = Subset(self.images, rows.tolist())
        return DataLoader(subset, batch_size, num_workers=self.num_workers)


def open_data(workspace: Workspace, num_workers: int = 0) -> Data:
    """Open the images of a table, to be decoded from their files each time."""
    table = Examples(workspace.examples)
    labels, folds = (table.column(name, None).astype(np.int64) for name in ("label", "fold"))
    paths = [workspace.photos / path for path in table.column("path", None)]
    return Data(Photos(paths, labels, workspace.workload.image_size), labels, folds, num_workers)


class Photos(Images):
    """Files, whose centre square is decoded each time: uint8 [size, size, 3], and a label."""

    def __init__(self, paths: Sequence[Path], labels: Numbers, size: int) -> None:
        self.paths, self.labels, self.size = paths, torch.from_numpy(labels), size

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        with Image.open(self.paths[index]) as photo:
            image = photo.convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        square = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        return torch.from_numpy(np.array(square)), self.labels[index]


class Backbone(nn.Module):
    """A ResNet18 without its classifier; uint8 pixels [N, S, S, 3] in, features [N, 512] out.

    `num_passes` counts the images that went through.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.network = torchvision.models.resnet18()
        self.network.load_state_dict(safetensors.torch.load_file(weights), strict=False)
        self.network.fc = nn.Identity()
        self.requires_grad_(False).eval()
        self.num_passes = 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.num_passes += len(pixels)
        scaled = functional.to_dtype(pixels.permute(0, 3, 1, 2), torch.float32, scale=True)
        features: Tensor = self.network(functional.normalize(scaled, list(MEAN), list(STD)))
        return features


class Classifier(nn.Module):
    """A frozen backbone and a trained head, as torchvision draws it from a seed."""

    def __init__(self, backbone: nn.Module, workload: Workload) -> None:
        super().__init__()
        torch.manual_seed(workload.seed)
        self.backbone = backbone
        self.head: nn.Linear = torchvision.models.resnet18(num_classes=len(CLASSES)).fc
        self.optimizer = torch.optim.AdamW(
            self.head.parameters(),
            lr=workload.learning_rate,
            weight_decay=workload.weight_decay,
            fused=True,
        )

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(images)
        logits: Tensor = self.head(features)
        return logits


def train_one_epoch(
    model: Classifier, data: Data, rows: Numbers, batch_size: int, seed: tuple[int, int]
) -> None:
    """Take one optimizer step per batch; only the head is in training mode, or trained."""
    model.head.train()
    (order_seed,) = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    order = np.random.default_rng(order_seed).permutation(rows)
    for images, labels in data.batches(order, batch_size):
        model.optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        model.optimizer.step()


@torch.inference_mode()
def predict(model: Classifier, data: Data, rows: Numbers, batch_size: int) -> Split:
    """Predict some rows, in their order."""
    model.head.eval()
    predicted = [model(images).softmax(dim=1) for images, _ in data.batches(rows, batch_size)]
    return Split(data.labels[rows], torch.cat(predicted).numpy())


def run(backbone: nn.Module, data: Data, workload: Workload) -> Outcome:
    """Cross-validate one head, fit it on every image outside the test split, and test it.

    With features as the data's images and an identity as the backbone, the very same loop runs
    with each image computed once.
    """
    splits = []
    for held_out in (*range(workload.num_folds), NO_FOLD):
        training = np.flatnonzero((data.folds != held_out) & (data.folds != NO_FOLD))
        rows = np.flatnonzero(data.folds == held_out)
        model = Classifier(backbone, workload)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(model.optimizer, workload.num_epochs)
        for epoch in range(1, workload.num_epochs + 1):
            seed = workload.seed, epoch
            train_one_epoch(model, data, training, workload.batch_size, seed)
            rate.step()
            if held_out != NO_FOLD or epoch == workload.num_epochs:
                split = predict(model, data, rows, workload.batch_size)
        splits.append(split)
    return _calibrated(splits)


def _calibrated(splits: Outcome) -> Outcome:
    """Temper the test's probabilities, as the folds' predictions call for."""
    *folds, test = splits
    labels, probabilities = (np.concatenate(parts) for parts in zip(*folds, strict=True))
    temperature = calibration.fit_temperature(labels, probabilities)
    return [*folds, test._replace(probabilities=calibration.tempered(test[1], temperature))]


@torch.inference_mode()
def all_features(backbone: nn.Module, data: Data, batch_size: int) -> Tensor:
    """Compute every image's features [N, C], each once."""
    batches = data.batches(np.arange(len(data.labels)), batch_size)
    return torch.cat([backbone(images) for images, _ in batches])


def num_passes(workspace: Workspace) -> tuple[int, int]:
    """Count the images that go through the network to train, and only to predict.

    Together E·N·(K+1)+T: each epoch of each fold trains on N·(K-1)/K images and validates on the
    other N/K, each epoch of the final fit trains on all N.
    """
    epochs, folds = workspace.workload.num_epochs, workspace.workload.num_folds
    num_train, num_test = workspace.num_images()
    return epochs * num_train * folds, epochs * num_train + num_test
