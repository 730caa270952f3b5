"""The test split, once, from the pixels: the number that the whole run is about."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from crossfold import backbone, compute, metrics, report
from crossfold.examples import TEST, TRAIN, Examples
from crossfold.features import decoded_batches
from crossfold.progress import report_progress


def evaluate_test(
    *,
    examples: Path,
    model: Path,
    leaderboard: Path,
    num_threads: int,
    evaluation: Path,
    report_page: Path,
) -> dict[str, Any]:
    """Run the whole network over the test split and write the evaluation and its report.

    Returns:
        The evaluation: classes; per test image its path, label and probabilities; metrics;
        the confusion matrix (rows are the true classes); "curves": "roc" and "pr", of
        `metrics.Curves`; the hashes of the model's file (sha256) and of the data (DVC's).
    """
    compute.prepare(num_threads)
    table = Examples(examples)
    paths, labels, probabilities = score(backbone.Network(model), table, num_threads)
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
    }
    evaluation.write_text(json.dumps(evaluated))
    board = json.loads(leaderboard.read_text())
    report_page.write_text(report.render(evaluated, board, _summarise(table)), encoding="utf-8")
    return evaluated


def score(
    network: backbone.Network, table: Examples, num_threads: int
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
