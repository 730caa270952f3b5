"""Count time, memory and bytes of each step: for more and more images, and for large photographs.

Each step runs in a new process. DVC does not pull the images: that would take longer than
all the rest.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .dataset import CLASSES, FIT, Workload, Workspace
from .machine import (
    THREADS,
    Machine,
    Measured,
    Record,
    in_fresh_process,
    peak_memory,
    pretend_cores,
    this_machine,
)

SIZES = (1_000, 10_000, 100_000)
MAX_GB = 1.5
MAX_GROWTH = 1.5  # of an image's time


class Cost(Record):
    """The seconds of a step, imports included, its most memory at once, and what it wrote."""

    seconds: Measured
    gb: Measured
    written_mb: Measured

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.gb:.2f} GB"


class Size(Record):
    """The costs of each step, and the bytes of the photos' files."""

    num_images: int
    photos_mb: Measured
    steps: dict[str, Cost]

    @property
    def peak_gb(self) -> float:
        """The most memory of any step."""
        return max(cost.gb for cost in self.steps.values())

    @property
    def problems(self) -> list[str]:
        """A line if a step takes too much memory."""
        peak = self.peak_gb
        line = f"{self.num_images:,} photos: peak memory: {peak} GB, {MAX_GB} are allowed"
        return [line] * (peak > MAX_GB)


class Scale(Record):
    """The costs for each number of images, smallest first."""

    machine: Machine
    sizes: tuple[Size, ...]

    @property
    def growth(self) -> float:
        """The time of an image in the largest set, by that in the set before."""
        smaller, larger = (
            sum(cost.seconds for cost in size.steps.values()) / size.num_images
            for size in self.sizes[-2:]
        )
        return larger / smaller

    @property
    def problems(self) -> list[str]:
        """A line for each figure that grows with the number of images and should not."""
        slower = f"time of an image: {self.growth:.2f} times as long, {MAX_GROWTH} are allowed"
        return [*self.sizes[-1].problems, *[slower] * (self.growth > MAX_GROWTH)]


@dataclass(frozen=True)
class Case:
    """Photos of one size, and the threads of the steps."""

    num_images: int
    photo_size: tuple[int, int]
    image_size: int = 224
    num_threads: int = THREADS
    num_folds: int = 5
    precision: str = "float32"
    is_turned: bool = False  # by EXIF


MEGAPIXELS_12, MEGAPIXELS_24 = (4000, 3000), (6000, 4000)
# More threads than most machines have, so that memory which grows with them shows.
LARGEST = Case(48, MEGAPIXELS_24, num_threads=20, num_folds=2, is_turned=True)


def measure_scale(sizes: Sequence[int] = SIZES) -> Scale:
    """Run every step for each number of small photos."""
    cases = [Case(num_images, photo_size=(64, 64), image_size=32) for num_images in sizes]
    return Scale(machine=this_machine(), sizes=tuple(map(measure, cases)))


def measure(case: Case) -> Size:
    """Write the photos, and run each step in a new process."""
    from .steps import STEPS

    workload = Workload(
        case.num_images // len(CLASSES),
        case.image_size,
        split=replace(Workload().split, num_folds=case.num_folds, test_fraction=0.2),
        fit=FIT.model_copy(update={"num_epochs": 2, "batch_size": 64}),
    )
    with tempfile.TemporaryDirectory(prefix="crossfold-scale-") as folder:
        workspace = Workspace(Path(folder), workload)
        workspace.write_files(case.photo_size, is_turned=case.is_turned)
        steps = {}
        for step in STEPS:
            steps[step] = in_fresh_process(_run_step, step, workspace, case)
            print(f"{case.num_images:>7,} {step:<16} {steps[step]}", flush=True)
        photos = sum(path.stat().st_size for path in workspace.photos.rglob("*.jpg"))
    return Size(num_images=case.num_images, photos_mb=photos / 1e6, steps=steps)


def _run_step(step: str, workspace: Workspace, case: Case) -> Cost:
    pretend_cores(case.num_threads)
    start, before = time.perf_counter(), _files(workspace.folder)
    if step == "write_examples":
        workspace.write_examples()
        workspace.write_data_page()
    else:
        from .steps import pipeline_steps  # and torch, which fetch_data does without

        pipeline_steps(workspace, workspace.folder, case.precision, case.num_threads)[step]()
    taken, written = time.perf_counter() - start, _files(workspace.folder) - before
    return Cost(
        seconds=taken,
        gb=peak_memory() / 1e9,
        written_mb=sum(path.stat().st_size for path in written) / 1e6,
    )


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.iterdir() if path.is_file()}
