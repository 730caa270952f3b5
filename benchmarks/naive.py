"""The loop that everyone writes, written well: torchvision, a DataLoader, a frozen backbone.

Every image goes through the whole frozen network in every epoch of every fold, again for
validation, again in the final fit, and for the test. The backbone stays in evaluation mode: a
`model.train()` on it would move its batch normalization's statistics although no weight of it is
trained (https://github.com/pytorch/pytorch/issues/86590).

Head, order of the images, learning rate and choice of the epoch are those of the pipeline, from
torch's own parts, so that the predictions must be the same. The moments by which the head's
features are scaled are given: to find them costs the loop one pass more in each fold, which is
neither counted nor timed here. The temperature of the probabilities is fitted by the pipeline's own
function, on the same out-of-fold predictions.
"""

import math
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
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset, TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.v2 import functional

from benchmarks.outcome import Outcome, Scored
from benchmarks.workload import Workload
from crossfold import calibration, metrics

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
    """A frozen backbone and a trained head on features of mean 0 and variance 1."""

    def __init__(self, backbone: nn.Module, head: nn.Linear, moments: tuple[Tensor, Tensor]):
        super().__init__()
        self.backbone, self.head = backbone, head
        self.mean, self.std = moments

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = (self.backbone(images) - self.mean) / self.std
        logits: Tensor = self.head(features)
        return logits


def new_head(num_classes: int, seed: int) -> nn.Linear:
    """Return the classifier as torchvision draws it from a seed, after all other layers."""
    torch.manual_seed(seed)
    head: nn.Linear = torchvision.models.resnet18(num_classes=num_classes).fc
    return head


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation [C] of features [N, C]; of a constant one, 1."""
    values = features.double()
    std = values.std(dim=0, correction=0)
    return values.mean(dim=0).float(), torch.where(std > 1e-6, std, 1.0).float()


def train_one_epoch(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    data: Data,
    rows: Numbers,
    batch_size: int,
    seed: int,
) -> None:
    """Take one optimizer step per batch; only the head is in training mode, or trained."""
    model.head.train()
    subset = Subset(data.items, rows.tolist())
    order = RandomSampler(subset, generator=torch.Generator().manual_seed(seed))
    for images, labels in _loader(data, subset, batch_size, order):
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
    batches = _loader(data, subset, batch_size, None)
    return torch.cat([model(images).softmax(dim=1) for images, _ in batches]).numpy()


def _loader(
    data: Data, subset: Items, batch_size: int, order: RandomSampler | None
) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(subset, batch_size, sampler=order, num_workers=data.num_workers)


def run(backbone: nn.Module, data: Data, features: Tensor, workload: Workload) -> Outcome:
    """Cross-validate one head, fit it on all but the test split, and test it.

    `features` [N, C] give the moments, and nothing else. With them as the data's items and an
    identity as the backbone, the very same loop runs with each image computed once.
    """

    def new_model(rows: Numbers) -> tuple[Classifier, torch.optim.Optimizer, Any]:
        head = new_head(data.num_classes, workload.seed)
        optimizer = torch.optim.AdamW(
            head.parameters(),
            lr=workload.learning_rate,
            weight_decay=workload.weight_decay,
            fused=True,
        )
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, workload.num_epochs)
        return Classifier(backbone, head, moments(features[rows])), optimizer, rate

    best_epochs, scored = [], []
    out_of_fold = []
    for fold in range(workload.num_folds):
        training = np.flatnonzero((data.folds != fold) & (data.folds != NO_FOLD))
        validation = np.flatnonzero(data.folds == fold)
        epoch, predicted = _fit(new_model(training), data, training, validation, workload)
        best_epochs.append(epoch)
        scored.append(Scored.of(data.labels[validation], predicted))
        out_of_fold.append((data.labels[validation], predicted))

    final_epochs = max(1, round(sum(best_epochs) / len(best_epochs)))
    everything = np.flatnonzero(data.folds != NO_FOLD)
    model, optimizer, rate = new_model(everything)
    for epoch in range(1, final_epochs + 1):
        seed = workload.seed + epoch
        train_one_epoch(model, optimizer, data, everything, workload.batch_size, seed)
        rate.step()
    held_out = np.flatnonzero(data.folds == NO_FOLD)
    labels, predictions = (np.concatenate(of_folds) for of_folds in zip(*out_of_fold, strict=True))
    temperature = calibration.fit_temperature(labels, predictions)
    probabilities = predict(model, data, held_out, workload.batch_size)
    calibrated = calibration.tempered(probabilities, temperature)
    return Outcome(best_epochs, scored, final_epochs, Scored.of(data.labels[held_out], calibrated))


def _fit(
    start: tuple[Classifier, torch.optim.Optimizer, Any],
    data: Data,
    training: Numbers,
    validation: Numbers,
    workload: Workload,
) -> tuple[int, np.ndarray[Any, np.dtype[np.float32]]]:
    """Return the epoch with the lowest validation loss, and the probabilities [M, K] then."""
    model, optimizer, rate = start
    lowest, best_epoch = math.inf, 0
    best: np.ndarray[Any, np.dtype[np.float32]] | None = None
    for epoch in range(1, workload.num_epochs + 1):
        seed = workload.seed + epoch
        train_one_epoch(model, optimizer, data, training, workload.batch_size, seed)
        rate.step()
        probabilities = predict(model, data, validation, workload.batch_size)
        loss = metrics.scores(data.labels[validation], probabilities)["loss"]
        if loss < lowest:
            lowest, best_epoch, best = loss, epoch, probabilities
        if epoch - best_epoch >= workload.patience:
            break
    assert best is not None
    return best_epoch, best


@torch.inference_mode()
def all_features(backbone: nn.Module, data: Data, batch_size: int) -> Tensor:
    """Return every image's features [N, C], each computed once."""
    batches = _loader(data, data.items, batch_size, None)
    return torch.cat([backbone(images) for images, _ in batches])


def count_flops(work: Callable[[], Any]) -> int:
    """Count the floating-point operations of matrix products and convolutions in `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())
