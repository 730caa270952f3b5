"""`make benchmark-scale`: 1,000, 10,000 and 100,000 images; time must be linear, memory flat.

The images are small files (64×64), so that the large set is minutes of work. The table is written
by the functions that `fetch_data` calls once it has pulled: pulling 100,000 files through DVC
would take longer than all the rest.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from benchmarks import machine, report
from benchmarks.dataset import write_images
from benchmarks.goals import GOALS
from benchmarks.rounds import run_module
from benchmarks.scale_steps import SMALL, STEPS
from crossfold.data.sample import random_resnet18

SIZES = (1_000, 10_000, 100_000)
FILE_SIZE = (64, 64)
MAX_GROWTH = 1.5  # of the time per image, from the second largest set to the largest


def run_size(folder: Path, num_images: int, threads: int) -> dict[str, Any]:
    """Return each step's seconds and peaks for a number of images."""
    folder.mkdir()
    write_images(folder / "images", num_images, FILE_SIZE)
    save_file(dict(random_resnet18()), folder / "weights")
    steps = {}
    for step in STEPS:
        arguments = [step, str(folder), str(threads)]
        steps[step] = run_module("benchmarks.scale_steps", arguments)
        figures = steps[step]
        print(
            f"{num_images:>7,} {step:<17} {figures['seconds']:7.1f} s, "
            f"{figures['peak'] / 1e9:.2f} GB resident, {figures['anonymous'] / 1e9:.2f} anonymous",
            flush=True,
        )
    shutil.rmtree(folder)
    return {"num_images": num_images, "steps": steps}


def seconds_per_image(size: dict[str, Any]) -> float:
    return float(sum(step["seconds"] for step in size["steps"].values()) / size["num_images"])


def problems(sizes: Sequence[dict[str, Any]]) -> list[str]:
    """Return what is wrong with the growth of time or memory, a line each."""
    (limit,) = (goal.target for goal in GOALS if goal.figure == "memory")
    *_, smaller, largest = sizes
    found = [
        f"{step} took {figures['peak'] / 1e9:.2f} GB at {largest['num_images']:,} images, "
        f"{limit} are allowed"
        for step, figures in largest["steps"].items()
        if figures["peak"] > limit * 1e9
    ]
    growth = seconds_per_image(largest) / seconds_per_image(smaller)
    if growth > MAX_GROWTH:
        found.append(
            f"an image takes {growth:.2f} times as long at {largest['num_images']:,} images as at "
            f"{smaller['num_images']:,}, {MAX_GROWTH} times are allowed"
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of images")
    options = parser.parse_args()
    threads = machine.num_cores()
    with tempfile.TemporaryDirectory(prefix="crossfold-scale-") as folder:
        sizes = [run_size(Path(folder) / str(size), size, threads) for size in options.sizes]
    peak = max(step["peak"] for step in sizes[-1]["steps"].values())
    if tuple(options.sizes) == SIZES:
        about = report.environment(threads)
        scale = {"sizes": sizes, "memory": peak / 1e9, "image_size": SMALL.image_size}
        report.save({"scale": {**about, **scale}})
    if len(sizes) > 1 and (found := problems(sizes)):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
