"""The test split, once, from the pixels: the number that the whole run is about."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from crossfold import backbone, compute, graph, metrics, report
from crossfold.classifier import Classifier, export
from crossfold.examples import TEST, TRAIN, Examples
from crossfold.features import decoded_batches
from crossfold.progress import report_progress

MAX_DIFFERENCE = 1e-3  # of a probability, between the export and torch, both in float32


def evaluate_test(
    *,
    examples: Path,
    model: Path,
    leaderboard: Path,
    num_threads: int,
    exported: Path,
    evaluation: Path,
    report_page: Path,
) -> dict[str, Any]:
    """Run the whole network over the test split and write the evaluation and its report.

    The network is exported first (see `classifier`), and what predicts is the export.

    Returns:
        The evaluation: classes; per test image its path, label and probabilities; metrics;
        the confusion matrix (rows are the true classes); "curves": "roc" and "pr", of
        `metrics.Curves`; the hashes of the model's file (sha256) and of the data (DVC's);
        "export": how far the export is from torch (see `compare_with_torch`).

    Raises:
        RuntimeError: the export does not compute what torch does.
    """
    compute.prepare(num_threads)
    table = Examples(examples)
    export(model, exported)
    paths, labels, probabilities = score(Classifier(exported, num_threads), table, num_threads)
    evaluated = {
        "classes": list(table.classes),
        "paths": paths,
        "labels": labels.tolist(),
        "probabilities": probabilities.tolist(),
        "metrics": metrics.scores(labels, probabilities),
        "confusion_matrix": metrics.confusion_matrix(
            labels, probabilities.argmax(axis=1), len(table.classes)
        ).tolist(),
        "curves": metrics.curves(labels, probabilities),
        "weights_hash": hashlib.sha256(model.read_bytes()).hexdigest(),
        "data_hash": table.data_hash,
        "export": compare_with_torch(backbone.Network(model), probabilities, table, num_threads),
    }
    evaluation.write_text(json.dumps(evaluated))
    board = json.loads(leaderboard.read_text())
    report_page.write_text(report.render(evaluated, board, _summarise(table)), encoding="utf-8")
    return evaluated


def compare_with_torch(
    network: backbone.Network,
    probabilities: np.ndarray[Any, np.dtype[np.float32]],
    table: Examples,
    num_threads: int,
) -> dict[str, Any]:
    """Compare the export's probabilities on the test split with those of torch in float32.

    Returns:
        by: what made the export; max_difference: of a probability; num_different: images whose
        most probable class is another.

    Raises:
        RuntimeError: they differ by more than MAX_DIFFERENCE, though computed in float32.
    """
    _, _, reference = score(network, table, num_threads)
    largest = float(np.abs(probabilities - reference).max())
    if network.precision == "float32" and largest > MAX_DIFFERENCE:
        raise RuntimeError(
            f"the exported {network.architecture} does not compute what torch does: a probability "
            f"differs by {largest:.2g}"
        )
    different = int((probabilities.argmax(axis=1) != reference.argmax(axis=1)).sum())
    return {"by": graph.ENGINE, "max_difference": largest, "num_different": different}


def score(
    network: Classifier | backbone.Network, table: Examples, num_threads: int
) -> tuple[list[str], np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.float32]]]:
    """Predict the test split from its encoded images.

    Returns:
        Paths, labels int64 [N] and probabilities float32 [N, K].
    """
    total = table.count(TEST)
    paths: list[str] = []
    labels, probabilities = [], []
    batches = decoded_batches(table, TEST, network.image_size, num_threads)
    for batch_paths, pixels, batch_labels in batches:
        paths += batch_paths
        labels.append(batch_labels)
        probabilities.append(network.predict(pixels))
        report_progress(len(paths), total, "images")
    return paths, np.concatenate(labels), np.concatenate(probabilities)


def _summarise(table: Examples) -> dict[str, Any]:
    """Return what the report says of the data."""
    counts = {
        split: Counter(table.classes[label] for label in table.column("label", split))
        for split in (TRAIN, TEST)
    }
    return {"counts": counts, "data_hash": table.data_hash, "skipped": list(table.skipped)}
