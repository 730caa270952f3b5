"""Time the naive loop and the pipeline's own functions on the same files.

Every path runs in a process of its own. No time includes imports.
"""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import Subset, TensorDataset

from crossfold.data.examples import Examples
from crossfold.evaluation import cross_validation, test_split
from crossfold.network import backbone, features, openvino_engine, safetensors_file
from crossfold.settings import PIXELS, Candidate
from crossfold.training.feature_rows import FeatureRows
from crossfold.training.fit import trainable_suffix
from crossfold.training.loop import adamw, train_one_epoch
from crossfold.training.recipe import FitSettings, Recipe
from crossfold.training.train_final import train_final
from crossfold.training.train_fold import train_fold

from . import naive
from .dataset import Workload, Workspace
from .machine import THREADS, Measured, Record, in_fresh_process, others_seconds
from .naive import Outcome, Split

FLOAT32, BFLOAT16 = "float32", "bfloat16"
ARCHITECTURE = "resnet18"
CUT = "fc"  # the last layer: as little training as can be that still takes epochs
NUM_SLICE_BATCHES = 3
NUM_STEPS = 3

Result = TypeVar("Result")


class AtPrecision(Record):
    """What one round measured of the pipeline in float32 or bfloat16."""

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
    workload = workspace.workload
    data = naive.open_data(workspace)
    rows = np.flatnonzero(data.folds != naive.NO_FOLD)[: NUM_SLICE_BATCHES * workload.batch_size]
    few = Subset(data.images, rows.tolist())
    decode_seconds, decoded = _timed(lambda: [few[index] for index in range(len(few))])
    pixels, labels = map(torch.stack, zip(*decoded, strict=True))
    batches = naive.Data(TensorDataset(pixels, labels), data.labels[rows], data.folds[rows])
    model = naive.Classifier(naive.Backbone(workspace.weights), workload)
    model(pixels[: workload.batch_size])  # the first pass chooses kernels
    batch_arguments = model, batches, np.arange(len(rows)), workload.batch_size
    train_seconds, _ = _timed(lambda: naive.train_one_epoch(*batch_arguments, (0, 1)))
    predict_seconds, _ = _timed(lambda: naive.predict(*batch_arguments))
    training, predicting = naive.num_passes(workspace)
    computing = training * train_seconds + predicting * predict_seconds
    decoding = len(data.labels) * decode_seconds / THREADS
    return (computing + decoding) / len(rows)


def time_each_image_once(workspace: Workspace) -> tuple[float, Outcome]:
    """Run the naive loop on features that torch has computed once for each image."""
    _import_late()
    torch.set_num_threads(THREADS)
    network = naive.Backbone(workspace.weights)
    data = naive.open_data(workspace, num_workers=THREADS)

    def run() -> Outcome:
        values = naive.all_features(network, data, workspace.workload.batch_size)
        images = TensorDataset(values, torch.from_numpy(data.labels))
        stored = naive.Data(images, data.labels, data.folds)
        return naive.run(torch.nn.Identity(), stored, workspace.workload)

    return _timed(run)


@dataclass(frozen=True)
class Pipeline:
    """The pipeline's steps as functions, with their outputs in `folder`."""

    workspace: Workspace
    folder: Path
    precision: str = FLOAT32

    def extract_features(self) -> None:
        """Run the frozen network over every image outside the test split."""
        features.extract_features(
            examples=self.workspace.examples,
            backbone_weights=self.workspace.weights,
            architecture=ARCHITECTURE,
            cuts=[CUT],
            image_size=self.workspace.workload.image_size,
            precision=self.precision,
            num_threads=THREADS,
            features=self.folder / "features",
        )

    def train_folds(self) -> None:
        """Train each fold in turn, on the one thread that params.yaml gives it."""
        workload = self.workspace.workload
        candidate = Candidate.model_validate(
            {
                "train_from": CUT,
                "learning_rate": workload.learning_rate,
                "weight_decay": workload.weight_decay,
            }
        )
        for fold, predictions in enumerate(self._predictions):
            train_fold(
                features=self.folder / "features",
                backbone_weights=self.workspace.weights,
                fold=fold,
                candidates=[candidate],
                settings=_fit_settings(self.workspace.workload, self.precision),
                num_threads=1,
                predictions=predictions,
            )

    def aggregate_cv(self) -> None:
        """Write the leaderboard of one candidate."""
        cross_validation.aggregate_cv(
            predictions=self._predictions,
            architecture=ARCHITECTURE,
            leaderboard=self.folder / "leaderboard",
        )

    def train_final(self) -> None:
        """Train on every image outside the test split, and export the network."""
        train_final(
            features=self.folder / "features",
            backbone_weights=self.workspace.weights,
            leaderboard=self.folder / "leaderboard",
            settings=_fit_settings(self.workspace.workload, self.precision),
            num_threads=THREADS,
            model=self.folder / "model",
        )
        openvino_engine.export(self.folder / "model", self.folder / "exported")

    def predict(self) -> Outcome:
        """Read the folds' predictions, and predict the test split as evaluate_test does."""
        folds = (safetensors_file.read(path)[0] for path in self._predictions)
        splits = [Split(np.array(f["label"]), np.array(f["probabilities_0"])) for f in folds]
        network = openvino_engine.Classifier(self.folder / "exported", THREADS)
        table = Examples(self.workspace.examples)
        _, labels, [probabilities] = test_split.score([network], table, THREADS)
        return [*splits, Split(labels, probabilities)]

    def evaluate_test(self) -> float:
        """Evaluate the test split; the evaluation has the milliseconds of a single image."""
        evaluation = test_split.evaluate_test(
            examples=self.workspace.examples,
            model=self.folder / "model",
            exported=self.folder / "exported",
            num_threads=THREADS,
            evaluation=self.folder / "evaluation",
        )
        return evaluation.latency.median_ms

    @property
    def _predictions(self) -> list[Path]:
        num_folds = self.workspace.workload.num_folds
        return [self.folder / f"predictions-{fold}" for fold in range(num_folds)]


def time_pipeline(workspace: Workspace, precision: str) -> tuple[AtPrecision, Outcome]:
    """Run the pipeline's steps, then evaluate_test as a whole, then some full fine-tuning."""
    _import_late()
    with tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline(workspace, Path(folder), precision)
        extract_seconds, _ = _timed(pipeline.extract_features)
        training = (pipeline.train_folds, pipeline.aggregate_cv, pipeline.train_final)
        train_seconds = sum(_timed(step)[0] for step in training)
        test_seconds, outcome = _timed(pipeline.predict)
        evaluate_seconds, one_image_ms = _timed(pipeline.evaluate_test)
    measured = AtPrecision(
        seconds=extract_seconds + train_seconds + test_seconds,
        evaluation_seconds=evaluate_seconds - test_seconds,
        photos_per_second=workspace.num_images()[0] / extract_seconds,
        fine_tuning_per_second=_fine_tuning_per_second(workspace, precision),
        one_image_ms=one_image_ms,
    )
    return measured, outcome


def _fine_tuning_per_second(workspace: Workspace, precision: str) -> float:
    """Train the whole network on one batch, again and again: images per second, the median."""
    workload = workspace.workload
    shape = (workload.batch_size, workload.image_size, workload.image_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    every = np.arange(len(pixels))
    rows = FeatureRows(pixels, every % 2, every)
    network = backbone.pretrained_network(ARCHITECTURE, workspace.weights, 2, seed=0)
    candidate = Candidate.model_validate(
        {"train_from": PIXELS, "learning_rate": 1e-4, "weight_decay": 0.01}
    )
    recipe = Recipe(candidate, _fit_settings(workload, precision))
    suffix = trainable_suffix(network, candidate, rows)
    optimizer = adamw(suffix, recipe)

    def step() -> object:
        return train_one_epoch(suffix, optimizer, rows, recipe, epoch=1)

    step()  # the first one chooses kernels
    return len(pixels) / statistics.median(_timed(step)[0] for _ in range(NUM_STEPS))


def _fit_settings(workload: Workload, precision: str) -> FitSettings:
    return FitSettings(
        architecture=ARCHITECTURE,
        num_epochs=workload.num_epochs,
        batch_size=workload.batch_size,
        seed=workload.seed,
        precision=precision,
    )


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    start = perf_counter()
    result = work()
    return perf_counter() - start, result


def _import_late() -> None:
    """Import now what torch and the steps import in their first call."""
    for name in ("torch._dynamo", "scipy.optimize", "scipy.special", "sklearn.metrics"):
        import_module(name)
