"""Real image files, made from the two photographs that scikit-learn ships.

A class is one half of one photograph: an image of it is a window at a random place and of a random
size, mirrored or not, with a random tint and grain. The grain stands in for the detail that a
window lacks once it is enlarged, so that a file has the size, and costs the decoding, of a
photograph straight from a camera.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps
from safetensors.numpy import save_file

from crossfold.data.examination.page import write_page
from crossfold.data.examples import TEST, TRAIN, Examples
from crossfold.data.fetch import write_table
from crossfold.data.image_source import FolderSource
from crossfold.data.layouts.layout import read_layout
from crossfold.data.samples.digits import random_resnet18
from crossfold.data.splits import SplitSettings
from crossfold.settings import Backbone, Candidate
from crossfold.training.recipe import FitSettings
from crossfold.weights.preprocessing import find_preprocessing

from .machine import THREADS

CLASSES = ("china-left", "china-right", "flower-left", "flower-right")
PHOTO_SIZE = (640, 480)
_QUALITY = 90
_GRAIN = 6.0  # standard deviation, of 255
_UPRIGHT = 6  # EXIF's orientation: turned by a quarter


SPLIT = SplitSettings(num_folds=5, test_fraction=0.25)
FIT = FitSettings(num_epochs=5, batch_size=32, seed=0, precision="float32")
# The last layer, trained by epochs. As a head, which the pipeline trains to convergence, it would
# take the naive loop a hundred passes and more.
CANDIDATE = Candidate(
    freeze_backbone=False, train_from="fc", learning_rate=0.003, weight_decay=0.01
)


@dataclass(frozen=True)
class Workload:
    """A cross-validation of one candidate, a final fit and a test; `image_size` in pixels."""

    images_per_class: int = 400
    image_size: int = 224
    split: SplitSettings = SPLIT
    fit: FitSettings = FIT
    candidate: Candidate = CANDIDATE

    @property
    def backbone(self) -> Backbone:
        """The network, with `Workspace.weights`."""
        return Backbone(
            name="resnet18",
            architecture="resnet18",
            weights="weights.safetensors",
            image_size=self.image_size,
        )


class Workspace:
    """The files that every path reads, and the workload to do with them."""

    def __init__(self, folder: Path, workload: Workload) -> None:
        names = ("photos", "examples", "weights.safetensors")
        self.photos, self.examples, self.weights = (folder / name for name in names)
        self.folder, self.workload = folder, workload

    def write_files(
        self, photo_size: tuple[int, int] = PHOTO_SIZE, *, is_turned: bool = False
    ) -> None:
        """Write the photos, (width, height), and a ResNet18's random weights."""
        number = len(CLASSES) * self.workload.images_per_class
        write_photos(self.photos, number, photo_size, is_turned=is_turned)
        save_file(dict(random_resnet18()), self.weights)

    def write_examples(self) -> None:
        """Check and split the photos and write their table, as `fetch_data` does without DVC."""
        how = find_preprocessing("resnet18", None, self.workload.backbone)
        self.report = write_table(
            FolderSource(self.photos),
            read_layout(self.photos),
            self.workload.split,
            [how.geometry],
            "",
            self.examples,
        )

    def write_data_page(self) -> None:
        """Write the page about the photos that `write_examples` has examined."""
        write_page(self.folder / "data.html", self.report, FolderSource(self.photos))

    def num_images(self) -> tuple[int, int]:
        """Count the images to train on, and those of the test split."""
        table = Examples(self.examples)
        return table.count(TRAIN), table.count(TEST)


def write_photos(
    folder: Path, num_photos: int, size: tuple[int, int], *, is_turned: bool = False
) -> None:
    """Write JPEG files of `size` (width, height), as many of each class, always the same.

    `is_turned`: EXIF says that the camera was held upright.
    """
    exif = Image.Exif()
    if is_turned:
        exif[ExifTags.Base.Orientation] = _UPRIGHT
    halves = dict(_halves())
    for name in CLASSES:
        (folder / name).mkdir(parents=True)

    def write(index: int) -> None:
        name = CLASSES[index % len(CLASSES)]
        photo = _window(halves[name], size, np.random.default_rng((0, index)))
        photo.save(folder / name / f"{index:06}.jpg", quality=_QUALITY, exif=exif)

    with ThreadPoolExecutor(THREADS) as writers:
        list(writers.map(write, range(num_photos)))


def _halves() -> Iterator[tuple[str, Image.Image]]:
    from sklearn.datasets import load_sample_image

    for name in CLASSES:
        photo, side = name.split("-")
        whole = Image.fromarray(load_sample_image(f"{photo}.jpg"))
        left = 0 if side == "left" else whole.width // 2
        yield name, whole.crop((left, 0, left + whole.width // 2, whole.height))


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
