"""Evaluate the chosen model once on the test split, from the pixels."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfold.data.examples import TEST, Examples
from crossfold.network import determinism, openvino_engine, trained_network
from crossfold.network.openvino_engine import Classifier
from crossfold.records import Evaluation, Export, PredictedImages
from crossfold.step.progress import report_progress

from . import calibration, explanations, latency, metrics
from .curves import compute_curves

NUM_LATENCY_IMAGES = 50
MAX_DIFFERENCE = 1e-3  # of a probability, between the export and torch, both in float32


def evaluate_test(
    *,
    examples: Path,
    model: Path,
    exported: Path,
    num_threads: int,
    evaluation: Path,
) -> Evaluation:
    """Run the whole network over the test split and write the evaluation.

    The exported network's predictions are scored (see `classifier`). torch predicts the same
    images, to verify the export.

    Raises:
        RuntimeError: the export's probabilities differ from torch's.
    """
    determinism.prepare(num_threads)
    table, network, reference = (
        Examples(examples),
        Classifier(exported, num_threads),
        trained_network.Network(model),
    )
    paths, labels, (computed, torchs) = score([network, reference], table, num_threads)
    probabilities = metrics.floored(computed)
    predicted = PredictedImages(
        classes=table.classes,
        paths=tuple(paths),
        labels=labels.tolist(),
        probabilities=probabilities.tolist(),
    )
    timed = table.test_files(range(min(len(paths), NUM_LATENCY_IMAGES)))
    evaluated = Evaluation(
        **dict(predicted),
        **_scored(labels, probabilities),
        calibration=calibration.assess(labels, probabilities, reference.temperature),
        activation_maps=explanations.activation_maps(reference, table, predicted),
        latency=latency.measure(network, timed, num_threads),
        weights_hash=hashlib.sha256(model.read_bytes()).hexdigest(),
        data_hash=table.data_hash,
        split_hash=split_hash(table),
        export=compare_with_torch(reference, computed, torchs),
    )
    evaluated.write(evaluation)
    return evaluated


def _scored(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> dict[str, Any]:
    predictions, num_classes = probabilities.argmax(axis=1), probabilities.shape[1]
    return {
        "metrics": metrics.scores(labels, probabilities),
        "intervals": metrics.bootstrap_intervals(labels, probabilities),
        "class_f1_intervals": metrics.class_f1_intervals(labels, predictions, num_classes).tolist(),
        "confusion_matrix": metrics.confusion_matrix(labels, predictions, num_classes).tolist(),
        "curves": compute_curves(labels, probabilities),
    }


def compare_with_torch(
    network: trained_network.Network,
    probabilities: NDArray[np.float32],
    torchs: NDArray[np.float32],
) -> Export:
    """Compare the export's probabilities on the test split with those of torch in float32.

    Raises:
        RuntimeError: they differ by more than MAX_DIFFERENCE, though computed in float32.
    """
    largest = float(np.abs(probabilities - torchs).max())
    if not np.isfinite(largest) or (network.precision == "float32" and largest > MAX_DIFFERENCE):
        raise RuntimeError(
            f"the exported {network.architecture} differs from torch by up to {largest:.2g} in a "
            "probability"
        )
    different = int((probabilities.argmax(axis=1) != torchs.argmax(axis=1)).sum())
    return Export(by=openvino_engine.ENGINE, max_difference=largest, num_different=different)


def split_hash(table: Examples) -> str:
    """Hash the test split with SHA-256: its images by content, each with its class."""
    classes = (table.classes[label] for label in table.column("label", TEST))
    pairs = zip(table.column("content_hash", TEST), classes, strict=True)
    return hashlib.sha256("".join(f"{h} {c}\n" for h, c in sorted(pairs)).encode()).hexdigest()


def score(
    networks: Sequence[Classifier | trained_network.Network], table: Examples, num_threads: int
) -> tuple[list[str], NDArray[np.int64], list[NDArray[np.float32]]]:
    """Predict the test split with several networks; each image is decoded once for all of them.

    Returns:
        Paths, labels int64 [N], and for each network its probabilities float32 [N, K].
    """
    total = table.count(TEST)
    paths: list[str] = []
    labels = []
    predicted: list[list[NDArray[np.float32]]] = [[] for _ in networks]
    batches = table.decoded_batches(TEST, networks[0].preprocessing, num_threads)
    for batch_paths, pixels, batch_labels in batches:
        paths += batch_paths
        labels.append(batch_labels)
        for network, probabilities in zip(networks, predicted, strict=True):
            probabilities.append(network.predict(pixels))
        report_progress(len(paths), total, "images")
    return paths, np.concatenate(labels), [np.concatenate(parts) for parts in predicted]
