"""Extract features: run the frozen prefix once over every image and store the output."""

import logging
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from crossfold.data.examples import TRAIN, Examples, Pixels
from crossfold.errors import UserError
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.settings import HEAD, PIXELS, PreprocessingSettings
from crossfold.step.progress import report_progress

from . import backbone, cutting, determinism, openvino_engine, preprocessing, safetensors_file
from .carried_preprocessing import find_preprocessing
from .weights_file import read_weights


@dataclass(frozen=True)
class FeatureSettings:
    """The settings that features depend on."""

    architecture: str
    cuts: Sequence[str]  # where training begins: "head", a stage's name, or "pixels"
    preprocessing: PreprocessingSettings  # in place of the network's own
    precision: str  # number format of the computation, "float32" or "bfloat16"


def extract_features(
    *,
    examples: Path,
    backbone_weights: Path,
    settings: FeatureSettings,
    num_threads: int,
    features: Path,
    shard: int = 0,
    num_shards: int = 1,
) -> dict[str, int]:
    """Run the frozen prefix over every image outside the test split, or over one shard.

    Writes one safetensors file, in the order of `examples`: for each cut the float32 values there,
    [N, …] (for "pixels" the uint8 pixels [N, S, S, 3]), and `label` and `fold`, int64 [N].
    Batch normalization stays in evaluation mode: a frozen prefix is a fixed function. The
    file has float32, whatever the precision of the computation.

    Returns:
        The size of one image at each cut, in bytes.

    Raises:
        UserError: architecture, weights, cuts and image size do not fit each other, or the arrays
            do not fit on the disk; nothing is written then.
    """
    determinism.prepare(num_threads)
    architecture = settings.architecture
    table = Examples(examples, shard, num_shards)
    network = backbone.pretrained_network(
        architecture, backbone_weights, len(table.classes), seed=0
    )
    how = find_preprocessing(architecture, backbone_weights, settings.preprocessing)
    _try_one(network, architecture, how)
    values_at_cuts = _prefix(network, settings, how, num_threads)

    num_images = table.count(TRAIN)
    sample = values_at_cuts(np.zeros((1, how.image_size, how.image_size, 3), np.uint8))
    bytes_per_image = {cut: math.prod(one.shape) * one.itemsize for cut, one in sample.items()}
    _refuse_if_too_large(bytes_per_image, num_images, features.parent)

    arrays = safetensors_file.create(
        features,
        {
            "label": (np.int64, (num_images,)),
            "fold": (np.int64, (num_images,)),
            **{cut: (one.dtype.type, (num_images, *one.shape[1:])) for cut, one in sample.items()},
        },
        {
            "architecture": architecture,
            "classes": table.classes,
            "num_folds": table.num_folds,
            "preprocessing": asdict(how),
            "shard": shard,
        },
    )
    arrays["label"][:] = table.column("label", TRAIN)
    arrays["fold"][:] = table.column("fold", TRAIN)
    done = 0
    for _, pixels, _ in table.decoded_batches(TRAIN, how, num_threads):
        for cut, value in values_at_cuts(pixels).items():
            arrays[cut][done : done + len(value)] = value
        done += len(pixels)
        report_progress(done, num_images, "images")
    return bytes_per_image


def check_network(
    architecture: str,
    weights: Path | None,
    cuts: Sequence[str],
    preprocessing: PreprocessingSettings,
) -> str:
    """Refuse every network that `extract_features` would refuse, without computing anything.

    Args:
        architecture: a classification network of torchvision or timm.
        weights: the weights file; None if it is not on this machine.
        cuts: where training begins.
        preprocessing: the preprocessing in place of the network's own.

    Returns:
        The place of the weights in the file, see `weights_file.Weights`.

    Raises:
        UserError: architecture, weights, cuts and image size do not fit each other.
    """
    network = _shapes(architecture)
    with torch.device("meta"):
        how = find_preprocessing(architecture, weights, preprocessing)
        _try_one(network, architecture, how)
    # The head always, because each network is exported cut there.
    cutting.prefix(cutting.trace(network), [HEAD, *(cut for cut in cuts if cut != PIXELS)])
    wanted = backbone.pretrained_tensors(network)
    return read_weights(weights, architecture, wanted).source if weights else ""


def _shapes(architecture: str) -> nn.Module:
    """Build a network of shapes without values, which computes in no time."""
    try:
        with torch.device("meta"):
            return backbone.build_network(architecture, num_classes=2, seed=0)
    except NotImplementedError:  # RegNets compute their widths by tensors
        return backbone.build_network(architecture, num_classes=2, seed=0).to("meta")


def join_features(*, shards: Sequence[Path], features: Path) -> None:
    """Merge the shards' features, in any order, into one file, as if computed in one step.

    Raises:
        UserError: the disk is too small; nothing is written then.
    """
    parts = sorted(map(safetensors_file.read, shards), key=lambda part: part[1]["shard"])
    num_images = sum(len(arrays["label"]) for arrays, _ in parts)
    first, about = parts[0]
    needed = {name: math.prod(one.shape[1:]) * one.itemsize for name, one in first.items()}
    _refuse_if_too_large(needed, num_images, features.parent)
    joined = safetensors_file.create(
        features,
        {name: (one.dtype.type, (num_images, *one.shape[1:])) for name, one in first.items()},
        about,
    )
    done = 0
    for arrays, _ in parts:
        count = len(arrays["label"])
        for name, values in arrays.items():
            joined[name][done : done + count] = values
        done += count
        report_progress(done, num_images, "images")


def _try_one(network: nn.Module, architecture: str, how: Preprocessing) -> None:
    """Raise UserError if the network cannot take images of this size; tries a black one."""
    black = torch.zeros((1, how.image_size, how.image_size, 3), dtype=torch.uint8)
    try:
        with torch.inference_mode():
            network(preprocessing.normalize(black, how))
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"params.yaml model.image_size: {architecture} cannot take images of {how.image_size} "
            f"pixels: {error}"
        ) from None


def _prefix(
    network: nn.Module, settings: FeatureSettings, how: Preprocessing, num_threads: int
) -> Callable[[Pixels], dict[str, safetensors_file.Array]]:
    """Build the function from uint8 pixels [B, S, S, 3] to the values at the cuts."""
    with_pixels = PIXELS in settings.cuts
    stages = [cut for cut in settings.cuts if cut != PIXELS]
    if not stages:
        return lambda pixels: {PIXELS: pixels}
    beginning = preprocessing.from_pixels(cutting.prefix(cutting.trace(network), stages), how)
    compute_values = openvino_engine.compiled(
        openvino_engine.from_torch(beginning, how.image_size), settings.precision, num_threads
    )

    def values_at_cuts(pixels: Pixels) -> dict[str, safetensors_file.Array]:
        found: dict[str, safetensors_file.Array] = {PIXELS: pixels} if with_pixels else {}
        return found | dict(zip(stages, compute_values(pixels), strict=True))

    return values_at_cuts


def _refuse_if_too_large(bytes_per_image: dict[str, int], num_images: int, folder: Path) -> None:
    needed = num_images * sum(bytes_per_image.values())
    free = shutil.disk_usage(folder).free
    shares = ", ".join(f"{size:,} bytes at {cut}" for cut, size in bytes_per_image.items())
    logging.info("features take %s bytes for %d images: %s", f"{needed:,}", num_images, shares)
    if needed > free:
        raise UserError(
            f"the features of {num_images} images need {needed / 1e9:.1f} GB and {folder} has "
            f"{free / 1e9:.1f} GB free; one image takes {shares}. Free some space, drop the "
            f"candidate that trains from the largest, or lower model.image_size in params.yaml."
        )
