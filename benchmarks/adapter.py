"""The pipeline's own functions, as the benchmark calls them: the one place that knows them.

When a function of `crossfold` takes or needs something else, it is mended here and nowhere else.
What only some paths use is imported inside of the functions, so that none carries the memory of
libraries that its step would not load.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks.outcome import Outcome, Scored
from benchmarks.workload import ARCHITECTURE, CUT, Workload
from crossfold.data.examples import Examples
from crossfold.network import backbone, classifier, determinism, features, tensorfile
from crossfold.network import engine as network_engine
from crossfold.settings import HEAD, PIXELS, Candidate
from crossfold.training import steps
from crossfold.training.feature_rows import FeatureRows

FLOAT32, BFLOAT16 = "float32", "bfloat16"

PRECISIONS = (FLOAT32, BFLOAT16)

# As in params.yaml: a head is too little work for more than one thread.
THREADS_FOLDS = 1

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


# What the pipeline's functions import in their first call.
_LATE_IMPORTS = ("torch._dynamo", "scipy.optimize", "scipy.special", "sklearn.metrics")


def import_all() -> None:
    """Import what the clock would else have in it.

    Imports are part of a step's start-up, which has its own row; the fork server has them done
    before the first step.
    """
    for name in _LATE_IMPORTS:
        import_module(name)


def extract(
    table: Path,
    weights: Path,
    workload: Workload,
    threads: int,
    precision: str,
    output: Path,
    cuts: tuple[str, ...] = (CUT,),
) -> dict[str, int]:
    """Run extract_features; return the bytes that one image takes at each cut."""
    return features.extract_features(
        examples=table,
        backbone_weights=weights,
        architecture=ARCHITECTURE,
        cuts=list(cuts),
        image_size=workload.image_size,
        precision=precision,
        num_threads=threads,
        features=output,
    )


def train_fold(
    stored: Path, weights: Path, workload: Workload, fold: int, precision: str, output: Path
) -> dict[str, Any]:
    """Train the workload's head on all folds but one; return its scores on that one."""
    (result,) = steps.train_fold(
        features=stored,
        backbone_weights=weights,
        architecture=ARCHITECTURE,
        fold=fold,
        candidates=[workload.candidate],
        num_epochs=workload.num_epochs,
        batch_size=workload.batch_size,
        seed=workload.seed,
        precision=precision,
        num_threads=THREADS_FOLDS,
        predictions=output,
    )
    return result


@dataclass(frozen=True)
class WholeRun:
    """What a run gave, and the seconds that each part took."""

    outcome: Outcome
    seconds: dict[str, float]


def run(
    table: Path, weights: Path, workload: Workload, threads: int, precision: str, folder: Path
) -> WholeRun:
    """Extract, train every fold, choose, fit and test, one after the other.

    The test is evaluate_test's predictions. What else it does, the naive loop does not; see
    `evaluate`.
    """
    import_all()
    from crossfold.evaluation import test_split

    seconds: dict[str, float] = {}
    names = ("features", "leaderboard", "model", "exported")
    stored, leaderboard, model, exported = (folder / name for name in names)
    predictions = [folder / f"predictions-{fold}" for fold in range(workload.num_folds)]

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = perf_counter()
        result = work()
        seconds[name] = perf_counter() - start
        return result

    timed("extract", lambda: extract(table, weights, workload, threads, precision, stored))
    timed(
        "folds",
        lambda: [
            train_fold(stored, weights, workload, fold, precision, output)
            for fold, output in enumerate(predictions)
        ],
    )
    timed("aggregate", lambda: aggregate_cv(predictions, leaderboard))
    timed(
        "final",
        lambda: train_final(stored, weights, leaderboard, workload, precision, threads, model),
    )
    timed("export", lambda: export(folder))
    _, labels, [probabilities] = timed(
        "test",
        lambda: test_split.score(
            [classifier.Classifier(exported, threads)], Examples(table), threads
        ),
    )
    outcome = Outcome(
        folds=[_fold_scored(path) for path in predictions],
        test=Scored.of(labels, probabilities),
    )
    return WholeRun(outcome, seconds)


def aggregate_cv(predictions: list[Path], leaderboard: Path) -> dict[str, Any]:
    """Run aggregate_cv; return the leaderboard."""
    from crossfold.evaluation import cross_validation

    return cross_validation.aggregate_cv(
        predictions=predictions, architecture=ARCHITECTURE, leaderboard=leaderboard
    )


def train_final(
    stored: Path,
    weights: Path,
    leaderboard: Path,
    workload: Workload,
    precision: str,
    threads: int,
    model: Path,
) -> None:
    """Train the workload's head on all images outside the test split and write the network."""
    steps.train_final(
        features=stored,
        backbone_weights=weights,
        architecture=ARCHITECTURE,
        leaderboard=leaderboard,
        num_epochs=workload.num_epochs,
        batch_size=workload.batch_size,
        seed=workload.seed,
        precision=precision,
        num_threads=threads,
        model=model,
    )


def export(folder: Path) -> None:
    """Export the network that `train_final` wrote to `folder`, for `evaluate`."""
    classifier.export(folder / "model", folder / "exported")


def _fold_scored(predictions: Path) -> Scored:
    arrays, _ = tensorfile.read(predictions)
    return Scored.of(np.array(arrays["label"]), np.array(arrays["probabilities_0"]))


def evaluate(table: Path, folder: Path, threads: int) -> dict[str, Any]:
    """Run evaluate_test as the step does, on what `run` left in `folder`; return the evaluation.

    Besides predicting, it has torch predict the same images, to compare the two, times single
    images and draws the intervals.
    """
    from crossfold.evaluation import test_split

    return test_split.evaluate_test(
        examples=table,
        model=folder / "model",
        exported=folder / "exported",
        num_threads=threads,
        evaluation=folder / "evaluation",
    )


def engine(
    weights: Path, workload: Workload, threads: int, precision: str
) -> Callable[[Pixels], object]:
    """Return what extract_features runs on each batch: pixels [B, S, S, 3] in, features out.

    Loading, tracing and, where the engine has one, conversion happen here, not in the function.
    """
    determinism.prepare(threads)
    network = backbone.pretrained_network(ARCHITECTURE, weights, 2, seed=0)
    prefix = backbone.from_pixels(backbone.prefix(backbone.trace(network), [HEAD]))
    return network_engine.compiled(
        network_engine.from_torch(prefix, workload.image_size), precision, threads
    )


def one_image(
    weights: Path, workload: Workload, threads: int, folder: Path
) -> Callable[[bytes], object]:
    """Return what predicts one encoded image, end to end, with a network that was saved."""
    from crossfold.predict.model import predict_images

    determinism.prepare(threads)
    path = folder / "model"
    backbone.save_network(
        path,
        backbone.pretrained_network(ARCHITECTURE, weights, 2, seed=0),
        architecture=ARCHITECTURE,
        classes=("a", "b"),
        image_size=workload.image_size,
        candidate=workload.candidate,
        precision=FLOAT32,
    )
    classifier.export(path, folder / "exported")
    network = classifier.Classifier(folder / "exported", threads)

    def predict(encoded: bytes) -> object:
        return list(predict_images(network, [encoded], lambda data: data))

    return predict


def fine_tuning_step(
    weights: Path, workload: Workload, threads: int, precision: str
) -> Callable[[], None]:
    """Return train_one_epoch on an epoch of one batch: forward, backward and AdamW."""
    determinism.prepare(threads)
    candidate = Candidate(**{**workload.candidate, "freeze_backbone": False, "train_from": PIXELS})
    network = backbone.pretrained_network(ARCHITECTURE, weights, 2, seed=0)
    draw = np.random.default_rng(0)
    size, side = workload.batch_size, workload.image_size
    pixels = draw.integers(0, 256, (size, side, side, 3), np.uint8)
    labels = draw.integers(0, 2, size)
    rows = FeatureRows(pixels, labels, np.arange(size))
    model = steps.trainable(network, candidate, rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)

    def step() -> None:
        steps.train_one_epoch(model, optimizer, rows, size, (0, 1), precision)

    return step
