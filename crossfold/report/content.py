"""The contents of the report's tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from crossfold.evaluation import metrics
from crossfold.records import Interval, Scores

from .predictions import Predictions


@dataclass(frozen=True)
class Baseline:
    """The scores of always predicting one class."""

    name: str
    accuracy: float
    macro_f1: float


def majority_baseline(test: Predictions, train_counts: Mapping[str, int]) -> Baseline:
    """Score a classifier that always predicts the class with the most training images."""
    counts = [train_counts.get(name, 0) for name in test.classes]
    largest = int(np.argmax(counts))
    macro_f1 = metrics.macro_f1(test.labels, np.full_like(test.labels, largest), len(test.classes))
    return Baseline(test.classes[largest], float((test.labels == largest).mean()), macro_f1)


@dataclass(frozen=True)
class PartialScores:
    """Scores on some of the test images."""

    num_images: int
    num_left_out: int
    scores: Scores


def scores_without(test: Predictions, left_out: Sequence[str]) -> PartialScores | None:
    """Score the test images except the paths `left_out`; None if that leaves all or no images."""
    kept = ~np.isin(test.paths, left_out)
    if kept.all() or not kept.any():
        return None
    scores = metrics.scores(test.labels[kept], test.probabilities[kept])
    return PartialScores(int(kept.sum()), int((~kept).sum()), scores)


@dataclass(frozen=True)
class ClassRow:
    """The scores of one class; `support` is its number of test images."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    f1_interval: Interval


def class_rows(test: Predictions, f1_intervals: Sequence[Interval]) -> list[ClassRow]:
    """List each class with its scores."""
    counts = metrics.class_counts(test.confusion)
    scores = (counts.precision, counts.recall, counts.f1, counts.support)
    columns = zip(test.classes, *scores, f1_intervals, strict=True)
    return [ClassRow(*values) for values in columns]


@dataclass(frozen=True)
class TestedImage:
    """A test image with its prediction; `picture` and `overlay` are data URIs."""

    path: str
    picture: str
    overlay: str | None
    true: str
    predicted: str
    probability: float
    probability_of_true: float


def tested_images(
    test: Predictions,
    shown: Sequence[int],
    pictures: Mapping[str, str],
    overlays: Mapping[str, str],
) -> list[TestedImage]:
    """Describe the test images at the positions `shown`; the pictures are data URIs by path."""
    return [
        TestedImage(
            path=test.paths[i],
            picture=pictures[test.paths[i]],
            overlay=overlays.get(test.paths[i]),
            true=test.classes[test.labels[i]],
            predicted=test.classes[test.predicted[i]],
            probability=test.probabilities[i].max(),
            probability_of_true=test.probabilities[i, test.labels[i]],
        )
        for i in shown
    ]


def data_rows(
    classes: Sequence[str], counts: dict[str, dict[str, int]]
) -> list[tuple[str, int, int]]:
    """List each class with its numbers of training and test images; the last row is the total."""
    rows = [(c, counts["train"].get(c, 0), counts["test"].get(c, 0)) for c in classes]
    return [*rows, ("all classes", sum(row[1] for row in rows), sum(row[2] for row in rows))]
