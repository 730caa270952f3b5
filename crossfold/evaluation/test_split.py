"""Evaluate the chosen model once on the test split, from the pixels."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfold.data.examples import TEST, Examples
from crossfold.network import determinism
from crossfold.network.openvino_engine import Classifier
from crossfold.network.trained_network import Network
from crossfold.records import Evaluation, PredictedImages
from crossfold.step.progress import report_progress

from . import calibration, explanations, export_check, latency, metrics
from .curves import compute_curves
from .export_check import TorchSample
from .prediction_sets import measured_coverage
from .prediction_sets.measured_coverage import NoveltyCounter
from .prediction_sets.reference import Reference

# The latency is timed on the test split's first images, up to the one that reaches these bytes.
NUM_LATENCY_IMAGES = 50
MAX_LATENCY_BYTES = 2**28


def evaluate_test(
    *,
    examples: Path,
    model: Path,
    exported: Path,
    sets: Path,
    num_threads: int,
    evaluation: Path,
) -> Evaluation:
    """Run the whole network over the test split and write the evaluation.

    The exported network's predictions are scored. torch predicts a sample of the same images, to
    verify the export.

    Raises:
        RuntimeError: the export's probabilities differ from torch's.
    """
    determinism.prepare(num_threads)
    table, network, reference = (
        Examples(examples),
        Classifier(exported, num_threads),
        Network(model),
    )
    compared = TorchSample(reference, table.count(TEST))
    known = Reference.read(sets)
    counter = NoveltyCounter(network, known)
    paths, labels, computed = score(counter, table, num_threads, compared)
    export = export_check.compare(reference, computed[compared.positions], compared.probabilities())
    probabilities = metrics.floored(computed)
    predicted = PredictedImages(
        classes=table.classes,
        paths=tuple(paths),
        labels=labels.tolist(),
        probabilities=probabilities.tolist(),
    )
    evaluated = Evaluation(
        **dict(predicted),
        **_scored(labels, probabilities),
        calibration=calibration.assess(labels, probabilities, reference.temperature),
        activation_maps=explanations.activation_maps(reference, table, predicted),
        latency=latency.measure(network, _timed_files(table), num_threads),
        weights_hash=hashlib.sha256(model.read_bytes()).hexdigest(),
        data_hash=table.data_hash,
        split_hash=split_hash(table),
        export=export,
        prediction_sets=measured_coverage.measure(known, labels, computed, counter.num_novel),
    )
    evaluated.write(evaluation)
    return evaluated


def _timed_files(table: Examples) -> list[bytes]:
    """Read the first files of the test split, as many as memory allows."""
    files: list[bytes] = []
    num_bytes = 0
    for _, file in table.test_files(range(NUM_LATENCY_IMAGES)):
        files.append(file)
        num_bytes += len(file)
        if num_bytes >= MAX_LATENCY_BYTES:
            break
    return files


def _scored(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> dict[str, Any]:
    predictions, num_classes = probabilities.argmax(axis=1), probabilities.shape[1]
    return {
        "metrics": metrics.scores(labels, probabilities),
        "intervals": metrics.bootstrap_intervals(labels, probabilities),
        "class_f1_intervals": metrics.class_f1_intervals(labels, predictions, num_classes).tolist(),
        "confusion_matrix": metrics.confusion_matrix(labels, predictions, num_classes).tolist(),
        "curves": compute_curves(labels, probabilities),
    }


def split_hash(table: Examples) -> str:
    """Hash the test split with SHA-256: its images by content, each with its class."""
    classes = (table.classes[label] for label in table.column("label", TEST))
    pairs = zip(table.column("content_hash", TEST), classes, strict=True)
    return hashlib.sha256("".join(f"{h} {c}\n" for h, c in sorted(pairs)).encode()).hexdigest()


def score(
    network: Classifier | Network | NoveltyCounter,
    table: Examples,
    num_threads: int,
    torch_sample: TorchSample | None = None,
) -> tuple[list[str], NDArray[np.int64], NDArray[np.float32]]:
    """Predict the test split, and show every batch of decoded images to `torch_sample` too.

    Returns:
        Paths, labels int64 [N], and probabilities float32 [N, K].
    """
    total = table.count(TEST)
    paths: list[str] = []
    labels, predicted = [], []
    batches = table.decoded_batches(TEST, network.preprocessing, num_threads)
    for batch_paths, pixels, batch_labels in batches:
        paths += batch_paths
        labels.append(batch_labels)
        predicted.append(network.predict(pixels))
        if torch_sample:
            torch_sample.add(pixels)
        report_progress(len(paths), total, "images")
    return paths, np.concatenate(labels), np.concatenate(predicted)
