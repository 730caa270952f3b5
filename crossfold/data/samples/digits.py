"""Write the sample of digits, and random weights: the same bytes on every machine, offline.

The digits are scikit-learn's: 1,797 handwritten digits of 8 x 8 pixels in 10 classes (Alpaydin &
Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998).

The random weights are a ResNet18 without a classifier whose convolutions are a fixed random draw.
Random convolutional features with a trained linear classifier come close to trained ones on small
tasks: Jarrett, Kavukcuoglu, Ranzato & LeCun, "What is the best multi-stage architecture for object
recognition?", ICCV 2009; Saxe, Koh, Chen, Bhand, Suresh & Ng, "On random weights and unsupervised
feature learning", ICML 2011.
"""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING

import numpy as np

from .bitmap import bitmap

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RANDOM_WEIGHTS = "resnet18-random.safetensors"
DIGITS_MODEL = {"architecture": "resnet18", "weights": RANDOM_WEIGHTS, "image_size": 32}
_SEED = 2


def write_digits(folder: Path) -> str:
    """Write a subfolder of images for each digit.

    Returns:
        A description of the images.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    for index, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        class_folder = folder / str(label)
        class_folder.mkdir(exist_ok=True)
        (class_folder / f"{index:04d}.bmp").write_bytes(digit_bitmap(image))
    return f"{len(digits.target)} images of {len(digits.target_names)} classes written"


def digit_bitmap(digit: np.ndarray) -> bytes:
    """Encode a digit, [8, 8] from 0 (background) to 16, as BMP."""
    grey = ((digit.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    return bitmap(np.repeat(grey[:, :, None], 3, axis=2))


def write_random_weights(folder: Path) -> str:
    """Write the weights of `random_resnet18`, and describe them."""
    (folder / RANDOM_WEIGHTS).write_bytes(_safetensors(dict(random_resnet18())))
    return f"{RANDOM_WEIGHTS} written, a ResNet18 of random convolutions"


def random_resnet18() -> Iterator[tuple[str, np.ndarray]]:
    """Draw a ResNet18's state dict as names and arrays, without the classifier `fc`.

    Names, shapes and scale are torchvision's: convolutions have the variance 2 / fan-out (He,
    Zhang, Ren & Sun, "Delving deep into rectifiers", ICCV 2015), here uniform and drawn from the
    raw stream of PCG64, which numpy guarantees for a seed; batch normalisation is the identity.
    """
    bits = np.random.PCG64(_SEED)
    yield from _convolution(bits, "conv1", 3, 64, 7)
    yield from _normalisation("bn1", 64)
    num_inputs = 64
    for layer, num_channels in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            name = f"layer{layer}.{block}"
            yield from _convolution(bits, f"{name}.conv1", num_inputs, num_channels, 3)
            yield from _normalisation(f"{name}.bn1", num_channels)
            yield from _convolution(bits, f"{name}.conv2", num_channels, num_channels, 3)
            yield from _normalisation(f"{name}.bn2", num_channels)
            if num_inputs != num_channels:
                yield from _convolution(bits, f"{name}.downsample.0", num_inputs, num_channels, 1)
                yield from _normalisation(f"{name}.downsample.1", num_channels)
            num_inputs = num_channels


def _convolution(
    bits: np.random.PCG64, name: str, num_inputs: int, num_outputs: int, size: int
) -> Iterator[tuple[str, np.ndarray]]:
    shape = (num_outputs, num_inputs, size, size)
    # 24 bits of each draw become an odd multiple of 2**-24 in (-1, 1): exact in a double, so that
    # the only roundings are the root, one product and the cast, which IEEE 754 fixes to the bit.
    integers = (bits.random_raw(math.prod(shape)) >> np.uint64(40)).astype(np.int64)
    units = (2 * integers + 1 - 2**24) / 2**24
    bound = math.sqrt(6 / (num_outputs * size * size))
    yield f"{name}.weight", (units * bound).astype("<f4").reshape(shape)


def _normalisation(name: str, num_channels: int) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{name}.weight", np.ones(num_channels, "<f4")
    yield f"{name}.bias", np.zeros(num_channels, "<f4")
    yield f"{name}.running_mean", np.zeros(num_channels, "<f4")
    yield f"{name}.running_var", np.ones(num_channels, "<f4")
    yield f"{name}.num_batches_tracked", np.zeros((), "<i8")


def _safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    """Encode a safetensors file, with the tensors in the given order.

    Written here and not by the library, which may change the order of tensors. The format:
    https://huggingface.co/docs/safetensors/index#format.
    """
    header: dict[str, object] = {}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.nbytes
        header[name] = {
            "dtype": {"f": "F32", "i": "I64"}[tensor.dtype.kind],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((struct.pack("<Q", len(text)), text, *(t.tobytes() for t in tensors.values())))
