"""Extract features: run the frozen prefix once over every image and store the output."""

import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from crossfold.data.examples import TRAIN, Examples
from crossfold.errors import UserError
from crossfold.imaging import decoding
from crossfold.settings import PIXELS
from crossfold.step.concurrency import in_order
from crossfold.step.progress import report_progress

from . import backbone, determinism, engine, tensorfile
from .checkpoint import read_weights

# Nothing is gained above: at 32 images a layer's activations still fit the processor's cache.
BATCH_SIZE = 32

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def extract_features(
    *,
    examples: Path,
    backbone_weights: Path,
    architecture: str,
    cuts: Sequence[str],
    image_size: int,
    precision: str,
    num_threads: int,
    features: Path,
    shard: int = 0,
    num_shards: int = 1,
) -> dict[str, int]:
    """Run the frozen prefix over every image outside the test split, or over one shard.

    Writes one tensorfile with, for each cut, the float32 values there, [N, …] (for "pixels" the
    uint8 pixels [N, S, S, 3]), and `label` and `fold`, int64 [N], all in the order of `examples`.
    Batch normalization stays in evaluation mode: a frozen prefix is a fixed function. `precision`
    is what it is computed in, "float32" or "bfloat16"; it is stored as float32 either way.

    Returns:
        The bytes that one image takes at each cut.

    Raises:
        UserError: architecture, weights, cuts or image size do not fit each other, or the arrays
            would not fit on the disk; nothing is written then.
    """
    determinism.prepare(num_threads)
    table = Examples(examples, shard, num_shards)
    network = backbone.pretrained_network(
        architecture, backbone_weights, len(table.classes), seed=0
    )
    _try_one(network, architecture, image_size)
    values_at_cuts = _prefix(network, cuts, image_size, precision, num_threads)

    num_images = table.count(TRAIN)
    sample = values_at_cuts(np.zeros((1, image_size, image_size, 3), np.uint8))
    bytes_per_image = {cut: math.prod(one.shape) * one.itemsize for cut, one in sample.items()}
    _refuse_if_too_large(bytes_per_image, num_images, features.parent)

    arrays = tensorfile.create(
        features,
        {
            "label": (np.int64, (num_images,)),
            "fold": (np.int64, (num_images,)),
            **{cut: (one.dtype.type, (num_images, *one.shape[1:])) for cut, one in sample.items()},
        },
        {
            "architecture": architecture,
            "classes": table.classes,
            "image_size": image_size,
            "num_folds": table.num_folds,
            "shard": shard,
        },
    )
    arrays["label"][:] = table.column("label", TRAIN)
    arrays["fold"][:] = table.column("fold", TRAIN)
    done = 0
    for _, pixels, _ in decoded_batches(table, TRAIN, image_size, num_threads):
        for cut, value in values_at_cuts(pixels).items():
            arrays[cut][done : done + len(value)] = value
        done += len(pixels)
        report_progress(done, num_images, "images")
    return bytes_per_image


def check_network(
    architecture: str, weights: Path | None, cuts: Sequence[str], image_size: int
) -> str:
    """Refuse a network that `extract_features` would refuse, without computing anything.

    Args:
        architecture: one of torchvision's classification networks.
        weights: the weights' file; None: it is not here, and not looked at.
        cuts: where training begins.
        image_size: side of the images, in pixels.

    Returns:
        Where in the file the weights are, see `checkpoint.Weights`.

    Raises:
        UserError: architecture, weights, cuts or image size do not fit each other.
    """
    network = _shapes(architecture)
    with torch.device("meta"):
        _try_one(network, architecture, image_size)
    if stages := [cut for cut in cuts if cut != PIXELS]:
        backbone.prefix(backbone.trace(network), stages)
    wanted = backbone.pretrained_tensors(network)
    return read_weights(weights, architecture, wanted).source if weights else ""


def _shapes(architecture: str) -> nn.Module:
    """Build a network of shapes without values, which computes almost for free."""
    try:
        with torch.device("meta"):
            return backbone.build_network(architecture, num_classes=2, seed=0)
    except NotImplementedError:  # RegNets compute their widths by tensors
        return backbone.build_network(architecture, num_classes=2, seed=0).to("meta")


def join_features(*, shards: Sequence[Path], features: Path) -> None:
    """Merge the shards' features, in any order, into one file, as if computed in one step.

    Raises:
        UserError: the disk has not the space; nothing is written then.
    """
    parts = sorted((tensorfile.read(path) for path in shards), key=lambda part: part[1]["shard"])
    num_images = sum(len(arrays["label"]) for arrays, _ in parts)
    first, about = parts[0]
    needed = {name: math.prod(one.shape[1:]) * one.itemsize for name, one in first.items()}
    _refuse_if_too_large(needed, num_images, features.parent)
    joined = tensorfile.create(
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


def decoded_batches(
    table: Examples, split: str, image_size: int, num_threads: int
) -> Iterator[tuple[list[str], Pixels, np.ndarray[Any, np.dtype[np.int64]]]]:
    """Yield paths, uint8 pixels [B, S, S, 3] and int64 labels [B] of a split, in table order."""
    decode = partial(decoding.square, side=image_size)
    for paths, encoded, labels in table.batches(split, BATCH_SIZE):
        yield paths, np.stack(list(in_order(decode, encoded, num_threads))), labels


def _try_one(network: nn.Module, architecture: str, image_size: int) -> None:
    """Refuse an image size that the network cannot handle, by trying one black image."""
    black = torch.zeros((1, image_size, image_size, 3), dtype=torch.uint8)
    try:
        with torch.inference_mode():
            network(backbone.normalize(black))
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"params.yaml data.image_size: {architecture} cannot take images of {image_size} "
            f"pixels: {error}"
        ) from None


def _prefix(
    network: nn.Module, cuts: Sequence[str], image_size: int, precision: str, num_threads: int
) -> Callable[[Pixels], dict[str, tensorfile.Array]]:
    """Build the function from uint8 pixels [B, S, S, 3] to the values at the cuts."""
    stages = [cut for cut in cuts if cut != PIXELS]
    if not stages:
        return lambda pixels: {PIXELS: pixels}
    beginning = backbone.from_pixels(backbone.prefix(backbone.trace(network), stages))
    compute_values = engine.compiled(
        engine.from_torch(beginning, image_size), precision, num_threads
    )

    def values_at_cuts(pixels: Pixels) -> dict[str, tensorfile.Array]:
        found: dict[str, tensorfile.Array] = {PIXELS: pixels} if PIXELS in cuts else {}
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
            f"candidate that trains from the largest, or lower data.image_size in params.yaml."
        )
