"""Time the naive loop and the whole pipeline, the report included, on the same files.

Every path runs in a new process. No time includes imports.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from crossfold.features.features_file import Features
from crossfold.records import Evaluation

from . import naive
from .dataset import Workspace
from .machine import THREADS, Machine, Measured, Record, in_fresh_process, others_seconds
from .naive import Outcome
from .steps import WITH_EPOCHS, outcome, pipeline_steps

EPOCHS = (5, 20, 50)  # the first number is that of the workload
NUM_SLICE_BATCHES = 3

Result = TypeVar("Result")


class AtPrecision(Record):
    """One round's measurements of the pipeline at one precision."""

    steps: dict[str, Measured]  # seconds of each, with the fewest epochs
    seconds: dict[int, Measured]  # of all steps, by the number of epochs
    network_ms: Measured  # that extraction took for an image, of all processors together
    one_image_ms: Measured  # from bytes to label, the median
    num_different: int  # predictions that differ from the naive loop's


class Round(Record):
    """Each path once, in turn; ratios are taken within a round."""

    others: Measured  # cores that other processes used meanwhile
    naive_seconds: dict[int, Measured]  # extrapolated, by the number of epochs
    pipeline: dict[str, AtPrecision]  # by precision; one that failed is missing


class Comparison(Record):
    """The rounds on files of one size."""

    machine: Machine
    num_images: tuple[int, int]  # to train on, to test
    num_folds: int
    file_mb: Measured  # of one photo
    table_mb: Measured  # that leave fetch_data for one photo
    once_seconds: Measured  # the naive loop on features that torch has computed once
    rounds: tuple[Round, ...]
    problems: tuple[str, ...]  # why a path failed

    def counting(self, num_epochs: int) -> float:
        """The ratio of the passes through the network: what counting alone gives."""
        num_train, num_test = self.num_images
        once = num_train + num_test
        return (num_epochs * num_train * (self.num_folds + 1) + num_test) / once

    def table_mb_at(self, file_mb: float) -> float:
        """The table's MB for one photo, if its file had this size: test photos leave as files."""
        num_train, num_test = self.num_images
        return self.table_mb + (file_mb - self.file_mb) * num_test / (num_train + num_test)


def compare(
    workspace: Workspace,
    precisions: Sequence[str],
    num_rounds: int,
    machine: Machine,
    *,
    must_agree: bool,
) -> Comparison:
    """Take rounds on a workspace whose photos are written.

    `must_agree`: count predictions that differ as a problem, beyond `naive.ALLOWED`. Photos that
    the pipeline decodes at a reduced scale have other pixels than the naive loop's.
    """
    workspace.write_examples()
    once_seconds, expected = in_fresh_process(time_each_image_once, workspace)
    rounds, problems = [], []
    for number in range(num_rounds):
        taken, failed = _take_round(workspace, precisions, expected, must_agree)
        rounds.append(taken)
        problems += failed
        print(f"round {number + 1} of {num_rounds}: {taken}", *failed, sep="\n", flush=True)
    files = list(workspace.photos.rglob("*.jpg"))
    return Comparison(
        machine=machine,
        num_images=workspace.num_images(),
        num_folds=workspace.workload.split.num_folds,
        file_mb=sum(path.stat().st_size for path in files) / len(files) / 1e6,
        table_mb=workspace.examples.stat().st_size / len(files) / 1e6,
        once_seconds=once_seconds,
        rounds=tuple(rounds),
        problems=tuple(problems),
    )


def _take_round(
    workspace: Workspace, precisions: Sequence[str], expected: Outcome, must_agree: bool
) -> tuple[Round, list[str]]:
    start, others = perf_counter(), others_seconds()
    naive_seconds = in_fresh_process(time_naive_loop, workspace)
    measured, problems = {}, []
    for precision in precisions:
        try:
            taken, predicted = in_fresh_process(time_pipeline, workspace, precision)
        except Exception as error:  # the other precisions' figures are kept
            problems.append(f"{precision}: {error!r}")
            continue
        different = naive.count_different(expected, predicted)
        measured[precision] = taken.model_copy(update={"num_different": different})
        if must_agree and (problem := naive.disagreement(expected, predicted, precision)):
            problems.append(problem)
    taken_round = Round(
        others=max(0.0, others_seconds() - others) / (perf_counter() - start),
        naive_seconds=naive_seconds,
        pipeline=measured,
    )
    return taken_round, problems


def time_naive_loop(workspace: Workspace) -> dict[int, float]:
    """Extrapolate the seconds of the naive loop, by the number of epochs, from some batches.

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

    def seconds(num_epochs: int) -> float:
        training, predicting = naive.num_passes(with_epochs(workspace, num_epochs))
        computing = training * train_seconds + predicting * predict_seconds
        return (computing + len(data.labels) * decode_seconds / THREADS) / len(rows)

    return {num_epochs: seconds(num_epochs) for num_epochs in EPOCHS}


def with_epochs(workspace: Workspace, num_epochs: int) -> Workspace:
    """Give the same files another number of epochs."""
    fit = workspace.workload.fit.model_copy(update={"num_epochs": num_epochs})
    return Workspace(workspace.folder, replace(workspace.workload, fit=fit))


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


def time_pipeline(workspace: Workspace, precision: str) -> tuple[AtPrecision, Outcome]:
    """Run every step, then those that train with more epochs again."""
    _import_late()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = {
            step: _timed(run)[0]
            for step, run in pipeline_steps(workspace, folder, precision).items()
        }
        predicted = outcome(workspace, folder)
        evaluation = Evaluation.read(folder / "evaluation")
        (backbone,) = Features(folder / "features").backbones
        fewest, *more = EPOCHS
        seconds = {fewest: sum(steps.values())}
        for num_epochs in more:
            again = pipeline_steps(with_epochs(workspace, num_epochs), folder, precision)
            longer = {step: _timed(again[step])[0] for step in WITH_EPOCHS}
            seconds[num_epochs] = sum((steps | longer).values())
    assert backbone.milliseconds is not None
    measured = AtPrecision(
        steps=steps,
        seconds=seconds,
        network_ms=backbone.milliseconds,
        one_image_ms=evaluation.latency.median_ms,
        num_different=0,
    )
    return measured, predicted


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    start = perf_counter()
    result = work()
    return perf_counter() - start, result


def _import_late() -> None:
    """Import now what torch and the steps import in their first call."""
    for name in ("torch._dynamo", "scipy.optimize", "scipy.special", "sklearn.metrics"):
        import_module(name)
