"""Time the naive loop and the pipeline's own functions on the same files.

Every path runs in a new process. No time includes imports.
"""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from crossfold.data.examples import Examples
from crossfold.evaluation import cross_validation, test_split
from crossfold.features.extraction import extract_features
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network import openvino_engine, safetensors_file
from crossfold.records import Choice, Evaluation
from crossfold.settings import PIXELS
from crossfold.training.feature_rows import FeatureRows
from crossfold.training.fit import trainable_suffix
from crossfold.training.loop import adamw, train_one_epoch
from crossfold.training.recipe import Recipe
from crossfold.training.train_final import train_final
from crossfold.training.train_fold import train_fold
from crossfold.weights.pretrained_network import pretrained_network

from . import naive
from .dataset import Workspace
from .machine import THREADS, Measured, Record, in_fresh_process, others_seconds
from .naive import Outcome, Split

FLOAT32, BFLOAT16 = "float32", "bfloat16"
NUM_SLICE_BATCHES = 3
NUM_STEPS = 3

Result = TypeVar("Result")


class AtPrecision(Record):
    """One round's measurements of the pipeline in float32 or bfloat16."""

    seconds: Measured  # from the photos to the test's predictions
    evaluation_seconds: Measured  # that evaluate_test takes beside predicting
    photos_per_second: Measured  # from files to features
    fine_tuning_per_second: Measured  # images, when the whole network is trained
    one_image_ms: Measured | None  # end to end, the median; None: not measured


class Round(Record):
    """Each path once, in turn; ratios are taken within a round."""

    others: Measured  # cores that other processes used meanwhile
    naive_seconds: Measured  # the naive loop, extrapolated
    once_seconds: Measured  # the same loop on features that torch has computed once
    pipeline: dict[str, AtPrecision]  # by precision
    num_different: int | None  # predictions in bfloat16; None: not counted


def take_round(workspace: Workspace, precisions: Sequence[str]) -> Round:
    """Run every path once.

    Raises:
        SystemExit: the paths give different predictions.
    """
    start, others = perf_counter(), others_seconds()
    naive_seconds = in_fresh_process(time_naive_loop, workspace)
    once, expected = in_fresh_process(time_each_image_once, workspace)
    measured, different = {}, {}
    for precision in precisions:
        measured[precision], outcome = in_fresh_process(time_pipeline, workspace, precision)
        different[precision] = naive.count_different(expected, outcome, precision)
    return Round(
        others=max(0.0, others_seconds() - others) / (perf_counter() - start),
        naive_seconds=naive_seconds,
        once_seconds=once,
        pipeline=measured,
        num_different=different.get(BFLOAT16),
    )


def time_naive_loop(workspace: Workspace) -> float:
    """Extrapolate the seconds of the naive loop from some of its batches.

    In its favour it decodes each image once, with every thread, and keeps the pixels in memory.
    """
    torch.set_num_threads(THREADS)
    data = naive.open_data(workspace)
    rows = np.flatnonzero(data.folds != naive.NO_FOLD)[: NUM_SLICE_BATCHES * data.batch_size]
    few = Subset(data.images, rows.tolist())
    decode_seconds, decoded = _timed(lambda: [few[index] for index in range(len(few))])
    pixels, labels = map(torch.stack, zip(*decoded, strict=True))
    batches = list(DataLoader(TensorDataset(pixels, labels), data.batch_size))
    model = naive.Classifier(naive.frozen_backbone(workspace.weights), workspace.workload)
    model.predict(batches[:1])  # the first pass chooses kernels
    train_seconds, _ = _timed(lambda: model.train_one_epoch(batches))
    predict_seconds, _ = _timed(lambda: model.predict(batches))
    training, predicting = naive.num_passes(workspace)
    computing = training * train_seconds + predicting * predict_seconds
    return (computing + len(data.labels) * decode_seconds / THREADS) / len(rows)


def time_each_image_once(workspace: Workspace) -> tuple[float, Outcome]:
    """Run the naive loop on features that torch has computed once for each image."""
    _import_late()
    torch.set_num_threads(THREADS)
    network = naive.frozen_backbone(workspace.weights)
    return _timed(lambda: run_each_image_once(network, workspace, num_workers=THREADS))


def run_each_image_once(network: nn.Module, workspace: Workspace, num_workers: int = 0) -> Outcome:
    """Compute every image's features, then run the naive loop on them."""
    data = naive.open_data(workspace, num_workers)
    stored = TensorDataset(naive.all_features(network, data), torch.from_numpy(data.labels))
    once = naive.Data(stored, data.labels, data.folds, data.batch_size)
    return naive.run(nn.Identity(), once, workspace.workload)


def pipeline_steps(
    workspace: Workspace, folder: Path, precision: str = FLOAT32
) -> dict[str, Callable[[], object]]:
    """List the pipeline's steps in order, as functions that read and write files in `folder`.

    The folds are trained in turn, on the one thread that params.yaml gives each.
    """
    workload, model = workspace.workload, folder / "model"
    settings = workload.fit.model_copy(update={"precision": precision})
    extracted = folder / "features"

    def train_folds() -> None:
        for fold, predictions in enumerate(_predictions(workspace, folder)):
            train_fold(
                features=extracted,
                settings=settings,
                fold=fold,
                candidates=[workload.candidate],
                num_threads=1,
                predictions=predictions,
            )

    def train_and_export() -> None:
        leaderboard = folder / "leaderboard"
        train_final(
            features=extracted,
            leaderboard=leaderboard,
            settings=settings,
            num_threads=THREADS,
            model=model,
        )
        openvino_engine.export(model, folder / "exported")

    return {
        "extract_features": partial(
            extract_features,
            examples=workspace.examples,
            weights=workspace.weights,
            backbone=workload.backbone,
            cuts=[workload.candidate.train_from],
            precision=precision,
            num_threads=THREADS,
            features=folder / "features",
        ),
        "train_folds": train_folds,
        "aggregate_cv": partial(
            cross_validation.aggregate_cv,
            predictions=_predictions(workspace, folder),
            choice=Choice.BEST,
            leaderboard=folder / "leaderboard",
        ),
        "train_final": train_and_export,
        "evaluate_test": partial(
            test_split.evaluate_test,
            examples=workspace.examples,
            model=model,
            exported=folder / "exported",
            num_threads=THREADS,
            evaluation=folder / "evaluation",
        ),
    }


def predict(workspace: Workspace, folder: Path) -> Outcome:
    """Read the folds' predictions, and predict the test split as evaluate_test does."""
    folds = (safetensors_file.read(path)[0] for path in _predictions(workspace, folder))
    splits = [Split(np.array(f["label"]), np.array(f["probabilities_0"])) for f in folds]
    network = openvino_engine.Classifier(folder / "exported", THREADS)
    _, labels, probabilities = test_split.score(network, Examples(workspace.examples), THREADS)
    return [*splits, Split(labels, probabilities)]


def _predictions(workspace: Workspace, folder: Path) -> list[Path]:
    return [folder / f"predictions-{fold}" for fold in range(workspace.workload.split.num_folds)]


def time_pipeline(workspace: Workspace, precision: str) -> tuple[AtPrecision, Outcome]:
    """Run the pipeline's steps, then some full fine-tuning."""
    _import_late()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = pipeline_steps(workspace, folder, precision)
        evaluate_test = steps.pop("evaluate_test")  # after `predict`, which it would warm up
        seconds = {step: _timed(run)[0] for step, run in steps.items()}
        test_seconds, outcome = _timed(lambda: predict(workspace, folder))
        evaluate_seconds, _ = _timed(evaluate_test)
        evaluation = Evaluation.read(folder / "evaluation")
    measured = AtPrecision(
        seconds=sum(seconds.values()) + test_seconds,
        evaluation_seconds=evaluate_seconds - test_seconds,
        photos_per_second=workspace.num_images()[0] / seconds["extract_features"],
        fine_tuning_per_second=_fine_tuning_per_second(workspace, precision),
        one_image_ms=evaluation.latency.median_ms,
    )
    return measured, outcome


def _fine_tuning_per_second(workspace: Workspace, precision: str) -> float:
    """Train the whole network on one batch, again and again: images per second, the median."""
    workload = workspace.workload
    shape = (workload.fit.batch_size, workload.image_size, workload.image_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    every = np.arange(len(pixels))
    rows = FeatureRows(pixels, every % 2, every)
    recipe = Recipe(
        workload.candidate.model_copy(update={"train_from": PIXELS, "learning_rate": 1e-4}),
        workload.fit.model_copy(update={"precision": precision}),
    )
    network = pretrained_network(workload.backbone.architecture, workspace.weights, 2, seed=0)
    suffix = trainable_suffix(network, recipe, Preprocessing(workload.image_size))
    optimizer = adamw(suffix, recipe)

    def step() -> object:
        return train_one_epoch(suffix, optimizer, rows, recipe, epoch=1)

    step()  # the first one chooses kernels
    return len(pixels) / statistics.median(_timed(step)[0] for _ in range(NUM_STEPS))


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    start = perf_counter()
    result = work()
    return perf_counter() - start, result


def _import_late() -> None:
    """Import now what torch and the steps import in their first call."""
    for name in ("torch._dynamo", "scipy.optimize", "scipy.special", "sklearn.metrics"):
        import_module(name)
