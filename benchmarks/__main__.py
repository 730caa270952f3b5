"""Time the whole pipeline beside the usual loop, and count its memory and bytes.

Writes docs/performance.md after each part, so that a part that fails loses no other's figures.
Exits with 1 if one failed, if predictions differ, if a ratio is far below its goal, if a step takes
too much memory, or if the time of an image grows with the number of images.
"""

import argparse
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from crossfold.network.processor import has_int8

from . import report
from .dataset import PHOTO_SIZE, Workload, Workspace
from .engine import Engine, measure_engine
from .local_run import LocalRun, time_local_run
from .machine import Record, this_machine
from .scale import LARGEST, MEGAPIXELS_12, Case, Scale, Size, measure, measure_scale
from .timings import Comparison, compare

NUM_PHOTOGRAPHS = 500
PARTS = ("small", "large", "engine", "largest", "local_run")


class Benchmark:
    """The parts; each returns its figures. `few`: only to try whether they work."""

    def __init__(self, num_rounds: int, *, few: bool) -> None:
        self.num_rounds, self.few = num_rounds, few
        self.machine = this_machine()
        has_bfloat16 = "avx512_bf16" in self.machine.flags
        offered = {"float32": True, "bfloat16": has_bfloat16, "int8": has_int8()}
        self.precisions = tuple(name for name, available in offered.items() if available)

    def small(self) -> Comparison:
        """Compare with the naive loop on photos of 640×480."""
        return self._compare(Workload(images_per_class=30 if self.few else 400), PHOTO_SIZE, True)

    def large(self) -> Comparison:
        """Compare with the naive loop on photos of 12 megapixels."""
        split = replace(Workload().split, test_fraction=0.2)
        workload = Workload(images_per_class=10 if self.few else 30, split=split)
        return self._compare(workload, MEGAPIXELS_12, False)

    def _compare(self, workload: Workload, size: tuple[int, int], must_agree: bool) -> Comparison:
        with tempfile.TemporaryDirectory(prefix="crossfold-benchmark-") as folder:
            workspace = Workspace(Path(folder), workload)
            workspace.write_files(size)
            return compare(
                workspace, self.precisions, self.num_rounds, self.machine, must_agree=must_agree
            )

    def engine(self) -> Engine:
        """Time matrix products, extraction and fine-tuning."""
        with tempfile.TemporaryDirectory(prefix="crossfold-benchmark-") as folder:
            workspace = Workspace(Path(folder), Workload(images_per_class=20 if self.few else 100))
            workspace.write_files()
            workspace.write_examples()
            return measure_engine(workspace, self.precisions, self.num_rounds, self.machine)

    def largest(self) -> Size:
        """Count the memory of every step on photos of 24 megapixels."""
        return measure(LARGEST)

    def local_run(self) -> LocalRun:
        """Time `crossfold run` on the digits."""
        with tempfile.TemporaryDirectory(prefix="crossfold-benchmark-") as folder:
            return time_local_run(Path(folder) / "project")

    def photographs(self) -> Size:
        """Count time, memory and bytes of every step on photos of 12 megapixels."""
        number = 60 if self.few else NUM_PHOTOGRAPHS
        return measure(Case(number, MEGAPIXELS_12))

    def scale(self) -> Scale:
        """Count time and memory for more and more small photos."""
        return measure_scale((100, 200) if self.few else (1_000, 10_000, 100_000))


def main() -> None:
    """Run the parts that the command names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parts = list(report.Results.model_fields)
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        choices=parts,
        help=f"some of {', '.join(parts)}; without any: {', '.join(PARTS)}",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--few", action="store_true", help="try it: few images, nothing written")
    args = parser.parse_args()
    benchmark, problems = Benchmark(args.rounds, few=args.few), []
    for name in args.parts or PARTS:
        problems += _run(name, getattr(benchmark, name), writes=not args.few)
    sys.exit("\n".join(problems) or None)


def _run(name: str, part: Callable[[], Record], *, writes: bool) -> list[str]:
    """Run one part, and write its figures; return its problems.

    Figures are stored before they are rendered: a page that cannot be written loses none.
    """
    start = perf_counter()
    print(f"{name}: started", flush=True)
    try:
        measured = report.Results.model_validate({name: part()})
        if writes:
            report.update(measured)
        print(report.render(measured), f"{name}: {perf_counter() - start:.0f} s", flush=True)
        return report.failures(measured)
    except (Exception, SystemExit) as error:  # the other parts' figures are worth having
        traceback.print_exc()
        return [f"{name} failed: {error!r}"]


if __name__ == "__main__":
    main()
