"""Write a sample: images and weights, the same bytes on every machine.

The digits are scikit-learn's: 1,797 handwritten digits of 8 x 8 pixels in 10 classes (Alpaydin &
Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998). The
photographs are in photographs.py.

The random weights are a ResNet18 without a classifier whose convolutions are a fixed random draw.
Random convolutional features with a trained linear classifier come close to trained ones on small
tasks: Jarrett, Kavukcuoglu, Ranzato & LeCun, "What is the best multi-stage architecture for object
recognition?", ICCV 2009; Saxe, Koh, Chen, Bhand, Suresh & Ng, "On random weights and unsupervised
feature learning", ICML 2011.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crossfold.errors import UserError

from ..dvc import add, folder_hash, pointer_hash
from .bitmap import bitmap
from .photographs import write_photographs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SAMPLE_WEIGHTS = "resnet18-random.safetensors"
SAMPLE_HASHES = {
    "data": "cd076e9f4e2be9d1d49da5dcd6fafdfd.dir",
    "models": "8c5d90a52757a27b82c50dd822815378.dir",
}
PHOTOGRAPHS_HASHES = {
    "data": "6481490d5aefab3249c76f1cfa84cb34.dir",
    "models": "bc5ee3338bbb29ec9575bde3b7fc21c9.dir",
}
_SEED = 2


def weights_warning(data_hash: str, weights: str) -> str:
    """Warn if the sample's weights are used on other images; else return "".

    Args:
        data_hash: the hash in data.dvc.
        weights: the name of the weights' file.
    """
    if weights != SAMPLE_WEIGHTS or data_hash == SAMPLE_HASHES["data"]:
        return ""
    return (
        f"model.weights is {SAMPLE_WEIGHTS}: random convolutions that are made for the sample's "
        "8 x 8 pixel digits. On your own images, above all photographs, a model with trained "
        "weights is far better: run `crossfold weights fetch efficientnet_lite0` and `dvc add "
        "models`, and use the settings for photographs in params.yaml"
    )


def write_sample(root: Path) -> list[str]:
    """Write the digits to `data/`, the random weights to `models/`, and add both to DVC.

    A folder with other content, or whose pointer (`data.dvc`, `models.dvc`) describes other
    content, is the user's and stays as it is; another sample is replaced. A folder that an earlier
    call wrote but could not add is added.

    Returns:
        A line per folder that describes its state.

    Raises:
        UserError: `root` is not a project with DVC.
    """
    return _write(root, SAMPLE_HASHES, {"data": _write_digits, "models": _write_weights})


def write_photographs_sample(root: Path, fetch_weights: Callable[[Path], str]) -> list[str]:
    """Write the photographs to `data/`, two weights files to `models/`, and add both to DVC.

    Folders are kept or replaced as `write_sample` does.

    Args:
        root: the project.
        fetch_weights: writes trained weights into a folder and returns a description. The random
            weights lie beside them, for comparison.

    Returns:
        A line per folder that describes its state.

    Raises:
        UserError: `root` is not a project with DVC, or a package cannot be fetched.
    """

    def write_weights(folder: Path) -> str:
        return f"{fetch_weights(folder)}; {_write_weights(folder)}"

    return _write(root, PHOTOGRAPHS_HASHES, {"data": write_photographs, "models": write_weights})


def _write(
    root: Path, hashes: Mapping[str, str], writers: Mapping[str, Callable[[Path], str]]
) -> list[str]:
    if not (root / ".dvc").is_dir():
        raise UserError(f"{root} is not a project with DVC: run this in the project's folder")
    return [_provide(root / name, hashes[name], write) for name, write in writers.items()]


def _provide(folder: Path, wanted: str, write: Callable[[Path], str]) -> str:
    samples = {hashes[folder.name] for hashes in (SAMPLE_HASHES, PHOTOGRAPHS_HASHES)}
    pointer = folder.with_name(f"{folder.name}.dvc")
    if pointer.exists() and pointer_hash(pointer.read_text(), pointer.name) not in samples:
        return f"{folder.name}/: kept, {pointer.name} describes your own files"
    if folder.exists():
        content = folder_hash(folder) if pointer.exists() else None
        if content not in samples:
            return f"{folder.name}/: kept, it exists already"
        if content == wanted:
            add(folder)
            return f"{folder.name}/: the sample exists already"
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        part = Path(scratch) / folder.name
        part.mkdir()
        written = write(part)
        if folder.exists():  # another sample, which this command can write again
            shutil.rmtree(folder)
        part.replace(folder)
    try:
        add(folder)
    except BaseException:  # else the next call would take it for the user's
        shutil.rmtree(folder)
        raise
    return f"{folder.name}/: {written}"


def _write_digits(folder: Path) -> str:
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


def _write_weights(folder: Path) -> str:
    (folder / SAMPLE_WEIGHTS).write_bytes(_safetensors(dict(random_resnet18())))
    return f"{SAMPLE_WEIGHTS} written, a ResNet18 of random convolutions"


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
