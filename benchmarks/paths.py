"""What is timed. Each path runs in a fresh process and prints its figures as one line of JSON.

python -m benchmarks.paths NAME FOLDER THREADS
"""

import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from benchmarks import adapter, naive
from benchmarks.adapter import BFLOAT16, FLOAT32
from benchmarks.dataset import CLASSES, Workspace, column
from benchmarks.workload import CHECK, MAIN, Workload, naive_passes

NUM_SLICE_BATCHES = 3
NUM_CALLS = 110  # of which the first are to warm up
NUM_WARM_UP = 10
NUM_STEPS = 3
MATRIX_SIZE = 2048
SECONDS = 1.5  # what a path that repeats something small takes

Figures = dict[str, Any]


def _repeat(work: Callable[[], object], seconds: float = SECONDS) -> list[float]:
    """Return the seconds of each call, after one that does not count, for some seconds."""
    work()
    taken: list[float] = []
    while sum(taken) < seconds or len(taken) < 3:
        start = perf_counter()
        work()
        taken.append(perf_counter() - start)
    return taken


def peak(workspace: Workspace) -> Figures:
    """Time a product of square matrices: the best of its repetitions, in GFLOP/s."""
    torch.set_num_threads(workspace.threads)

    def gflops(dtype: torch.dtype) -> float:
        left, right = (torch.randn(MATRIX_SIZE, MATRIX_SIZE).to(dtype) for _ in range(2))
        return 2 * MATRIX_SIZE**3 / min(_repeat(lambda: left @ right)) / 1e9

    return {FLOAT32: gflops(torch.float32), BFLOAT16: gflops(torch.bfloat16)}


def _photos(workspace: Workspace, workload: Workload, folder: str) -> tuple[naive.Photos, Any]:
    table = workspace.table(workload)
    paths = [workspace.folder / folder / path for path in column(table, "path")]
    labels = column(table, "label").astype(np.int64)
    folds = column(table, "fold").astype(np.int64)
    return naive.Photos(paths, labels, workload.image_size), folds


def naive_slice(workspace: Workspace, *, from_files: bool) -> Figures:
    """Time some batches of the naive loop, training and validating, in images per second.

    Either with all pixels decoded in memory, or from the files, as they are decoded by as many
    workers as there are threads.
    """
    torch.set_num_threads(workspace.threads)
    backbone = naive.Backbone(workspace.weights)
    photos, folds = _photos(workspace, MAIN, "photos")
    num_images = NUM_SLICE_BATCHES * MAIN.batch_size
    rows = np.flatnonzero(folds != naive.NO_FOLD)[:num_images]
    few = naive.Photos(
        [photos.paths[row] for row in rows], photos.labels[rows].numpy(), MAIN.image_size
    )
    start = perf_counter()
    pixels = naive.in_memory(few)
    decoding = (perf_counter() - start) / num_images
    data = naive.Data(
        few if from_files else pixels,
        few.labels.numpy(),
        folds[rows],
        len(CLASSES),
        workspace.threads if from_files else 0,
    )
    head = naive.new_head(len(CLASSES), MAIN.seed)
    model = naive.Classifier(backbone, head)
    optimizer = torch.optim.AdamW(head.parameters(), lr=MAIN.learning_rate, fused=True)
    backbone(pixels.tensors[0][: MAIN.batch_size])  # the first pass chooses kernels
    every = np.arange(num_images)
    start = perf_counter()
    naive.train_one_epoch(model, optimizer, data, every, MAIN.batch_size, seed=(0, 1))
    middle = perf_counter()
    naive.predict(model, data, every, MAIN.batch_size)
    end = perf_counter()
    return {
        "training": num_images / (middle - start),
        "validation": num_images / (end - middle),
        "decoding_seconds": decoding,
    }


def plain(workspace: Workspace) -> Figures:
    """Time the naive loop's own engine and head with each image decoded and computed once."""
    adapter.import_all()
    torch.set_num_threads(workspace.threads)
    backbone = naive.Backbone(workspace.weights)
    photos, folds = _photos(workspace, MAIN, "photos")
    labels = photos.labels.numpy()
    start = perf_counter()
    decoded = naive.Data(photos, labels, folds, len(CLASSES), workspace.threads)
    features = naive.all_features(backbone, decoded, MAIN.batch_size)
    middle = perf_counter()
    stored = naive.Data(TensorDataset(features, photos.labels), labels, folds, len(CLASSES))
    outcome = naive.run(torch.nn.Identity(), stored, MAIN)
    end = perf_counter()
    return {
        "seconds": end - start,
        "features_seconds": middle - start,
        "passes": backbone.num_passes,
        "outcome": outcome.to_json(),
    }


def ours(workspace: Workspace, workload: Workload, precision: str) -> Figures:
    """Time the pipeline's functions, one after the other; then evaluate_test as a whole."""
    table, threads = workspace.table(workload), workspace.threads
    folds = column(table, "fold")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done = adapter.run(table, workspace.weights, workload, threads, precision, folder)
        start = perf_counter()
        evaluated = adapter.evaluate(table, folder, threads)
        evaluating = perf_counter() - start
    if evaluated["metrics"]["accuracy"] != done.outcome.test.accuracy:
        raise SystemExit("evaluate_test gives another accuracy than its own parts")
    return {
        "seconds": sum(done.seconds.values()),
        "evaluating_more_seconds": evaluating - done.seconds["test"],
        "parts": done.seconds,
        "num_train": int((folds != naive.NO_FOLD).sum()),
        "num_test": int((folds == naive.NO_FOLD).sum()),
        "outcome": done.outcome.to_json(),
    }


def engine(workspace: Workspace, precision: str) -> Figures:
    """Time feature extraction without decoding, in GFLOP/s as counted on the reference network."""
    start = perf_counter()
    compute = adapter.engine(workspace.weights, MAIN, workspace.threads, precision)
    built = perf_counter()
    side = MAIN.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (32, side, side, 3), np.uint8)
    compute(pixels)
    first = perf_counter()
    taken = _repeat(lambda: compute(pixels), 2 * SECONDS)
    flops = _flops_per_image(workspace)
    return {
        "gflops": flops * len(pixels) / min(taken) / 1e9,
        "gflop_per_image": flops / 1e9,
        "images_per_second": len(pixels) / statistics.median(taken),
        "build_seconds": built - start,
        "first_batch_seconds": first - built,
    }


def _flops_per_image(workspace: Workspace) -> int:
    backbone = naive.Backbone(workspace.weights)
    pixels = torch.zeros((1, MAIN.image_size, MAIN.image_size, 3), dtype=torch.uint8)
    with torch.inference_mode():
        return naive.count_flops(lambda: backbone(pixels))


def one_image(workspace: Workspace) -> Figures:
    """Time one encoded photograph to its prediction, in milliseconds."""
    photos, _ = _photos(workspace, MAIN, "photos")
    files = [path.read_bytes() for path in photos.paths[:NUM_CALLS]]
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        predict = adapter.one_image(workspace.weights, MAIN, workspace.threads, Path(folder))
        for encoded in files:
            start = perf_counter()
            predict(encoded)
            taken.append(1000 * (perf_counter() - start))
    warm = taken[NUM_WARM_UP:]
    return {"p50": percentile(warm, 50), "p99": percentile(warm, 99), "first": taken[0]}


def percentile(values: list[float], percent: float) -> float:
    """Return the smallest of the values that is not below `percent` of them."""
    return sorted(values)[math.ceil(percent / 100 * len(values)) - 1]


def fine_tuning(workspace: Workspace, precision: str) -> Figures:
    """Time steps of training the whole network, in GFLOP/s and images per second."""
    step = adapter.fine_tuning_step(workspace.weights, MAIN, workspace.threads, precision)
    step()
    taken = []
    for _ in range(NUM_STEPS):
        start = perf_counter()
        step()
        taken.append(perf_counter() - start)
    flops = naive.count_flops(step)
    return {
        "gflops": flops / min(taken) / 1e9,
        "images_per_second": MAIN.batch_size / statistics.median(taken),
    }


def check_naive(workspace: Workspace) -> Figures:
    """Run the whole naive loop on the small set, from its files, and count its passes."""
    torch.set_num_threads(workspace.threads)
    backbone = naive.Backbone(workspace.weights)
    photos, folds = _photos(workspace, CHECK, "few")
    data = naive.Data(photos, photos.labels.numpy(), folds, len(CLASSES))
    start = perf_counter()
    outcome = naive.run(backbone, data, CHECK)
    seconds = perf_counter() - start
    num_test = int((folds == naive.NO_FOLD).sum())
    expected = naive_passes(len(folds) - num_test, num_test, CHECK)
    if backbone.num_passes != expected.total:
        raise SystemExit(f"{backbone.num_passes} passes counted, {expected.total} expected")
    return {"seconds": seconds, "passes": backbone.num_passes, "outcome": outcome.to_json()}


def check_space(workspace: Workspace) -> Figures:
    """State the bytes that an image takes at each cut."""
    with tempfile.TemporaryDirectory() as folder:
        stored = adapter.extract(
            workspace.table(CHECK),
            workspace.weights,
            MAIN,
            workspace.threads,
            FLOAT32,
            Path(folder) / "features",
            ("head", "layer4", "pixels"),
        )
    return {"bytes_per_image": stored}


PATHS: dict[str, Callable[[Workspace], Figures]] = {
    "peak": peak,
    "naive": partial(naive_slice, from_files=False),
    "naive_files": partial(naive_slice, from_files=True),
    "plain": plain,
    **{f"ours_{p}": partial(ours, workload=MAIN, precision=p) for p in (FLOAT32, BFLOAT16)},
    **{f"engine_{p}": partial(engine, precision=p) for p in (FLOAT32, BFLOAT16)},
    "one_image": one_image,
    **{f"fine_tuning_{p}": partial(fine_tuning, precision=p) for p in (FLOAT32, BFLOAT16)},
    "check_naive": check_naive,
    **{f"check_ours_{p}": partial(ours, workload=CHECK, precision=p) for p in (FLOAT32, BFLOAT16)},
    "check_space": check_space,
}


def in_every_round(*, bfloat16: bool) -> list[str]:
    """Return the paths of a round, in their order; `bfloat16`: the processor has products of it."""
    names = ["naive", "naive_files", "plain"]
    precisions = [p for p in adapter.PRECISIONS if bfloat16 or p == FLOAT32]
    names += [f"ours_{precision}" for precision in precisions]
    names += ["peak"]  # beside what is measured by it: a machine's speed changes within a round
    names += [f"engine_{precision}" for precision in precisions]
    names += ["one_image", f"fine_tuning_{FLOAT32}"]
    return [*names, f"fine_tuning_{BFLOAT16}"] if bfloat16 else names


def main() -> None:
    name, folder, threads = sys.argv[1:]
    figures = PATHS[name](Workspace(Path(folder), int(threads)))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
