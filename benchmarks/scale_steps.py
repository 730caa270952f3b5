"""One step of the pipeline at some size, in a process of its own; prints a line of JSON.

python -m benchmarks.scale_steps STEP FOLDER THREADS
"""

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.dataset import write_table
from benchmarks.machine import memory
from benchmarks.workload import Workload

SMALL = Workload(image_size=32, num_epochs=2, batch_size=64)
_INTERVAL = 0.02  # seconds between two looks at the anonymous memory


def write_examples(folder: Path, threads: int) -> None:
    """Check, split and write the table: `fetch_data` without the pull."""
    write_table(folder / "images", folder / "examples", SMALL)


def extract_features(folder: Path, threads: int) -> None:
    """Run the frozen network over every image once."""
    from benchmarks import adapter

    adapter.extract(
        folder / "examples",
        folder / "weights",
        SMALL,
        threads,
        adapter.FLOAT32,
        folder / "features",
    )


def train_folds(folder: Path, threads: int) -> None:
    """Train one head five times on four folds and predict the fifth, one after the other."""
    from benchmarks import adapter

    for fold, predictions in enumerate(_predictions(folder)):
        adapter.train_fold(
            folder / "features", folder / "weights", SMALL, fold, adapter.FLOAT32, predictions
        )


def aggregate_cv(folder: Path, threads: int) -> None:
    """Compare and choose."""
    from benchmarks import adapter

    adapter.aggregate_cv(_predictions(folder), folder / "leaderboard")


def train_final(folder: Path, threads: int) -> None:
    """Train the head on all images outside the test split, and export the network."""
    from benchmarks import adapter

    adapter.train_final(
        folder / "features",
        folder / "weights",
        folder / "leaderboard",
        SMALL,
        adapter.FLOAT32,
        threads,
        folder / "model",
    )
    adapter.export(folder)


def evaluate_test(folder: Path, threads: int) -> None:
    """Predict the test split and compare with torch."""
    from benchmarks import adapter

    adapter.evaluate(folder / "examples", folder, threads)


def _predictions(folder: Path) -> list[Path]:
    return [folder / f"predictions-{fold}" for fold in range(SMALL.num_folds)]


STEPS: dict[str, Callable[[Path, int], None]] = {
    "write_examples": write_examples,
    "extract_features": extract_features,
    "train_folds": train_folds,
    "aggregate_cv": aggregate_cv,
    "train_final": train_final,
    "evaluate_test": evaluate_test,
}


class AnonymousPeak:
    """The most anonymous memory that was seen in a block, in bytes; the kernel keeps no peak."""

    def __enter__(self) -> "AnonymousPeak":
        self.value = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(_INTERVAL):
            self.value = max(self.value, memory()["RssAnon"])


def measure(step: str, folder: Path, threads: int) -> dict[str, Any]:
    """Return the step's seconds, and the process's peaks in bytes (see `machine.memory`)."""
    with AnonymousPeak() as anonymous:
        start = perf_counter()
        STEPS[step](folder, threads)
        seconds = perf_counter() - start
    return {"seconds": seconds, "peak": memory()["VmHWM"], "anonymous": anonymous.value}


if __name__ == "__main__":
    name, where, num_threads = sys.argv[1:]
    print(json.dumps(measure(name, Path(where), int(num_threads))))
