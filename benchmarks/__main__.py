"""Time the pipeline beside the usual loop, or its steps for more and more images.

Writes docs/performance.md. Exits with 1 if predictions differ, if a ratio is far below its goal, or
if memory or the time of an image grows with the number of images.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from . import report
from .dataset import PHOTO_SIZE, Workload, Workspace
from .local_run import time_local_run
from .machine import this_machine
from .scale import measure_scale
from .timings import BFLOAT16, FLOAT32, take_round


def main() -> None:
    """Run one of the two benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--scale", action="store_true", help="1,000 to 100,000 small images")
    if parser.parse_args().scale:
        scale = measure_scale()
        report.update(scale=scale)
        problems = scale.problems
    else:
        results = report.update(comparison=compare(Workload()))
        print(report.render(results))
        problems = report.failures(results)
    sys.exit("\n".join(problems) or None)


def compare(
    workload: Workload, num_rounds: int = 5, photo_size: tuple[int, int] = PHOTO_SIZE
) -> report.Comparison:
    """Take rounds, and time runs of the sample."""
    machine = this_machine()
    precisions = (FLOAT32, BFLOAT16) if "avx512_bf16" in machine.flags else (FLOAT32,)
    rounds = []
    with tempfile.TemporaryDirectory(prefix="crossfold-benchmark-") as folder:
        workspace = Workspace(Path(folder), workload)
        workspace.write_files(photo_size)
        workspace.write_examples()
        for _ in range(num_rounds):
            rounds.append(take_round(workspace, precisions))
            print(rounds[-1], flush=True)
        local_run = time_local_run(workspace.folder / "project")
    return report.Comparison(machine=machine, rounds=tuple(rounds), local_run=local_run)


if __name__ == "__main__":
    main()
