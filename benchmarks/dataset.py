"""Real image files, made from the two photographs that scikit-learn ships.

A class is one half of one photograph: an image of it is a window at a random place and of a random
size, mirrored or not, with a random tint and grain. The grain stands in for the detail that a
window lacks once it is enlarged, so that a file has the size, and costs the decoding, of a
photograph straight from a camera.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file

from benchmarks.machine import num_cores
from benchmarks.workload import CHECK, MAIN, Workload
from crossfold.data.examples import Example, Examples, write_examples
from crossfold.data.folder import check_folder
from crossfold.data.sample import random_resnet18

CLASSES = ("china-left", "china-right", "flower-left", "flower-right")
PHOTO_SIZE = (640, 480)
QUALITY = 90
_GRAIN = 6.0  # standard deviation, of 255


@dataclass(frozen=True)
class Workspace:
    """A folder with what the paths read, and the number of processor threads they use."""

    folder: Path
    threads: int

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    def table(self, workload: Workload) -> Path:
        return self.folder / f"examples-{workload.images_per_class}"


def prepare(workspace: Workspace) -> None:
    """Write photographs, tables of both workloads, and weights of random convolutions."""
    write_images(workspace.photos, len(CLASSES) * MAIN.images_per_class, PHOTO_SIZE)
    write_table(workspace.photos, workspace.table(MAIN), MAIN)
    few = workspace.folder / "few"
    write_images(few, len(CLASSES) * CHECK.images_per_class, PHOTO_SIZE)
    write_table(few, workspace.table(CHECK), CHECK)
    save_file(dict(random_resnet18()), workspace.weights)


def write_images(folder: Path, num_images: int, size: tuple[int, int], seed: int = 0) -> None:
    """Write JPEG files of `size` (width, height), as many of each class, equal for equal seeds."""
    halves = _halves()
    for name in CLASSES:
        (folder / name).mkdir(parents=True)

    def write(index: int) -> None:
        name = CLASSES[index % len(CLASSES)]
        image = _window(halves[name], size, np.random.default_rng((seed, index)))
        image.save(folder / name / f"{index:06}.jpg", quality=QUALITY)

    with ThreadPoolExecutor(num_cores()) as writers:
        deque(writers.map(write, range(num_images)), maxlen=0)


def _halves() -> dict[str, Image.Image]:
    from sklearn.datasets import load_sample_image

    found = {}
    for name in CLASSES:
        photo, side = name.split("-")
        whole = Image.fromarray(load_sample_image(f"{photo}.jpg"))
        middle = whole.width // 2
        box = (0, 0, middle, whole.height)
        found[name] = whole.crop(box if side == "left" else (middle, 0, whole.width, whole.height))
    return found


def _window(half: Image.Image, size: tuple[int, int], draw: np.random.Generator) -> Image.Image:
    width = int(draw.integers(half.width // 2, half.width))
    height = round(width * size[1] / size[0])
    left = int(draw.integers(half.width - width + 1))
    top = int(draw.integers(half.height - height + 1))
    box = (left, top, left + width, top + height)
    image = half.resize(size, Image.Resampling.BICUBIC, box=box)
    if draw.integers(2):
        image = ImageOps.mirror(image)
    values = np.asarray(image, np.float32) * draw.uniform(0.7, 1.3, 3).astype(np.float32)
    values += _GRAIN * draw.standard_normal(values.shape, np.float32)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def write_table(folder: Path, table: Path, workload: Workload) -> None:
    """Check, split and write the table as `fetch_data` does, without pulling through DVC."""
    report = check_folder(
        folder,
        num_folds=workload.num_folds,
        test_fraction=workload.test_fraction,
        seed=workload.seed,
    )

    def rows() -> Iterator[Example]:
        columns = zip(
            report.paths,
            report.labels,
            report.content_hashes,
            report.splits,
            report.folds,
            strict=True,
        )
        for path, label, content_hash, split, fold in columns:
            yield Example(path, (folder / path).read_bytes(), label, content_hash, split, fold)

    write_examples(
        table,
        rows(),
        classes=report.classes,
        data_hash=hashlib.md5(json.dumps(report.content_hashes).encode()).hexdigest(),
        num_folds=workload.num_folds,
    )


def column(table: Path, name: str) -> np.ndarray[Any, Any]:
    """Return one column of a table, [N], in its order."""
    return Examples(table).column(name, None)
