"""Count time and memory of each step for more and more images: `make benchmark-scale`.

The photos are small (64×64), so that the large set takes minutes. DVC does not pull them: that
would take longer than all the rest.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from .dataset import CLASSES, FIT, Workload, Workspace
from .machine import Machine, Measured, Record, in_fresh_process, peak_memory, this_machine

SIZES = (1_000, 10_000, 100_000)
PHOTO_SIZE, IMAGE_SIZE = (64, 64), 32
STEPS = (
    *("write_examples", "extract_features", "train_folds"),
    *("aggregate_cv", "train_final", "evaluate_test"),
)
MAX_GB = 1.5
MAX_GROWTH = 1.5  # of an image's time


class Cost(Record):
    """The seconds of a step, imports included, and its most memory at once."""

    seconds: Measured
    gb: Measured

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.gb:.2f} GB"


class Size(Record):
    """The costs of each step."""

    num_images: int
    steps: dict[str, Cost]


class Scale(Record):
    """The costs for each number of images, smallest first."""

    machine: Machine
    sizes: tuple[Size, ...]

    @property
    def peak_gb(self) -> float:
        """The most memory of any step with the largest set."""
        return max(cost.gb for cost in self.sizes[-1].steps.values())

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
        memory = f"peak memory: {self.peak_gb} GB, {MAX_GB} are allowed"
        slower = f"time of an image: {self.growth:.2f} times as long, {MAX_GROWTH} are allowed"
        return [memory] * (self.peak_gb > MAX_GB) + [slower] * (self.growth > MAX_GROWTH)


def measure_scale(sizes: Sequence[int] = SIZES) -> Scale:
    """Run every step for each number of images."""
    return Scale(machine=this_machine(), sizes=tuple(map(_measure_size, sizes)))


def _measure_size(num_images: int) -> Size:
    per_class = num_images // len(CLASSES)
    fit = FIT.model_copy(update={"num_epochs": 2, "batch_size": 64})
    workload = Workload(per_class, IMAGE_SIZE, fit=fit)
    with tempfile.TemporaryDirectory(prefix="crossfold-scale-") as folder:
        workspace = Workspace(Path(folder), workload)
        workspace.write_files(PHOTO_SIZE)
        steps = {}
        for step in STEPS:
            steps[step] = in_fresh_process(_run_step, step, workspace)
            print(f"{num_images:>7,} {step:<16} {steps[step]}", flush=True)
    return Size(num_images=num_images, steps=steps)


def _run_step(step: str, workspace: Workspace) -> Cost:
    start = time.perf_counter()
    if step == "write_examples":
        workspace.write_examples()
    else:
        from .timings import pipeline_steps  # and torch, which fetch_data does without

        pipeline_steps(workspace, workspace.folder)[step]()
    return Cost(seconds=time.perf_counter() - start, gb=peak_memory() / 1e9)
