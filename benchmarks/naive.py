"""The loop that everyone writes, written well: torchvision, a DataLoader, a frozen backbone.

Every image goes through the whole frozen network in every epoch of every fold, again for
validation, again in the final fit, and for the test. The backbone stays in evaluation mode: a
`model.train()` on it would move its batch normalization's statistics although no weight of it is
trained (https://github.com/pytorch/pytorch/issues/86590).

Classifier, order of the images and learning rate are those of the pipeline, from torch's own parts,
so that the predictions must be the same. The temperature of the probabilities is fitted by the
pipeline's own function, on the same out-of-fold predictions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.v2 import functional

from benchmarks.outcome import Outcome, Scored
from benchmarks.workload import Workload
from crossfold.evaluation import calibration

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NO_FOLD = -1

Numbers = np.ndarray[Any, np.dtype[np.int64]]
Items = Dataset[tuple[Tensor, ...]]


@dataclass(frozen=True)
class Data:
    """Images in the table's order; `folds` has NO_FOLD for those of the test split."""

    items: Items
    labels: Numbers
    folds: Numbers
    num_classes: int
    num_workers: int = 0


def decode(path: Path, size: int) -> Tensor:
    """Return a photograph's centre square as uint8 [size, size, 3]."""
    with Image.open(path) as photo:
        image = photo.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    square = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.array(square))


class Photos(Dataset[tuple[Tensor, ...]]):
    """Files, decoded each time that one is asked for."""

    def __init__(self, paths: Sequence[Path], labels: Numbers, size: int) -> None:
        self.paths, self.labels, self.size = paths, torch.from_numpy(labels), size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return decode(self.paths[index], self.size), self.labels[index]


def in_memory(items: Photos) -> TensorDataset:
    """Return the same images, decoded once."""
    pixels = torch.stack([items[index][0] for index in range(len(items))])
    return TensorDataset(pixels, items.labels)


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
        self.register_forward_hook(self._count)

    def _count(self, _: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
        self.num_passes += len(inputs[0])

    def forward(self, pixels: Tensor) -> Tensor:
        scaled = functional.to_dtype(pixels.permute(0, 3, 1, 2), torch.float32, scale=True)
        features: Tensor = self.network(functional.normalize(scaled, list(MEAN), list(STD)))
        return features


class Classifier(nn.Module):
    """A frozen backbone and a trained head."""

    def __init__(self, backbone: nn.Module, head: nn.Linear):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(images)
        logits: Tensor = self.head(features)
        return logits


def new_head(num_classes: int, seed: int) -> nn.Linear:
    """Return the classifier as torchvision draws it from a seed, after all other layers."""
    torch.manual_seed(seed)
    head: nn.Linear = torchvision.models.resnet18(num_classes=num_classes).fc
    return head


def train_one_epoch(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    data: Data,
    rows: Numbers,
    batch_size: int,
    seed: tuple[int, int],
) -> None:
    """Take one optimizer step per batch; only the head is in training mode, or trained."""
    model.head.train()
    (order_seed,) = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    order = np.random.default_rng(order_seed).permutation(rows)
    for images, labels in _loader(data, Subset(data.items, order.tolist()), batch_size):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@torch.inference_mode()
def predict(
    model: Classifier, data: Data, rows: Numbers, batch_size: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return probabilities float32 [M, K] in the order of the rows."""
    model.head.eval()
    subset = Subset(data.items, rows.tolist())
    batches = _loader(data, subset, batch_size)
    return torch.cat([model(images).softmax(dim=1) for images, _ in batches]).numpy()


def _loader(data: Data, subset: Items, batch_size: int) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(subset, batch_size, num_workers=data.num_workers)


def run(backbone: nn.Module, data: Data, workload: Workload) -> Outcome:
    """Cross-validate one head, fit it on all but the test split, and test it.

    With features as the data's items and an identity as the backbone, the very same loop runs with
    each image computed once.
    """

    def new_model() -> tuple[Classifier, torch.optim.Optimizer, Any]:
        head = new_head(data.num_classes, workload.seed)
        optimizer = torch.optim.AdamW(
            head.parameters(),
            lr=workload.learning_rate,
            weight_decay=workload.weight_decay,
            fused=True,
        )
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, workload.num_epochs)
        return Classifier(backbone, head), optimizer, rate

    scored, out_of_fold = [], []
    for fold in range(workload.num_folds):
        training = np.flatnonzero((data.folds != fold) & (data.folds != NO_FOLD))
        validation = np.flatnonzero(data.folds == fold)
        predicted = _fit(new_model(), data, training, validation, workload)
        scored.append(Scored.of(data.labels[validation], predicted))
        out_of_fold.append((data.labels[validation], predicted))

    everything = np.flatnonzero(data.folds != NO_FOLD)
    model, optimizer, rate = new_model()
    for epoch in range(1, workload.num_epochs + 1):
        seed = workload.seed, epoch
        train_one_epoch(model, optimizer, data, everything, workload.batch_size, seed)
        rate.step()
    held_out = np.flatnonzero(data.folds == NO_FOLD)
    labels, predictions = (np.concatenate(of_folds) for of_folds in zip(*out_of_fold, strict=True))
    temperature = calibration.fit_temperature(labels, predictions)
    probabilities = predict(model, data, held_out, workload.batch_size)
    calibrated = calibration.tempered(probabilities, temperature)
    return Outcome(scored, Scored.of(data.labels[held_out], calibrated))


def _fit(
    start: tuple[Classifier, torch.optim.Optimizer, Any],
    data: Data,
    training: Numbers,
    validation: Numbers,
    workload: Workload,
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Train for all epochs, validating after each; return the probabilities [M, K] of the last."""
    model, optimizer, rate = start
    for epoch in range(1, workload.num_epochs + 1):
        seed = workload.seed, epoch
        train_one_epoch(model, optimizer, data, training, workload.batch_size, seed)
        rate.step()
        probabilities = predict(model, data, validation, workload.batch_size)
    return probabilities


@torch.inference_mode()
def all_features(backbone: nn.Module, data: Data, batch_size: int) -> Tensor:
    """Return every image's features [N, C], each computed once."""
    batches = _loader(data, data.items, batch_size)
    return torch.cat([backbone(images) for images, _ in batches])


def count_flops(work: Callable[[], Any]) -> int:
    """Count the floating-point operations of matrix products and convolutions in `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())
