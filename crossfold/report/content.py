"""The contents of the report: tables, figures and their text alternatives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from crossfold.evaluation import metrics
from crossfold.records import Bin, Calibration, Curves, Interval, Leaderboard, Scores

from . import figures
from .predictions import Predictions

MAX_CLASSES_FITTED = 14  # with more, the confusion matrix scrolls instead of being scaled down


@dataclass(frozen=True)
class Drawing:
    """A figure on the page; `alternative` is its text alternative."""

    svg: str
    alternative: str
    wide: bool = False


def drawings(
    test: Predictions, leaderboard: Leaderboard, calibration: Calibration
) -> dict[str, Drawing]:
    """Draw the page's figures and write their text alternatives, by name."""
    chosen = leaderboard.chosen
    return {
        **_learning_curves(leaderboard),
        "leaderboard": _drawing(
            figures.leaderboard(leaderboard),
            "Macro F1 of each candidate in cross-validation, with interval. The chosen one is "
            f"{chosen.candidate.name} with {chosen.mean['macro_f1']:.4f}.",
        ),
        "differences": _drawing(
            figures.differences(leaderboard),
            "Macro F1 of each candidate minus that of the chosen one on the same images, with "
            "interval. The table has the numbers.",
        ),
        "confusion_matrix": _drawing(
            figures.confusion_matrix(test.confusion, test.classes),
            f"Confusion matrix: {test.num_right} of {len(test.labels)} test images on the "
            f"diagonal. {_largest_confusion(test)}",
            wide=len(test.classes) > MAX_CLASSES_FITTED,
        ),
        "pr_curves": _drawing(
            figures.pr_curves(test.pr, test.classes),
            "Precision-recall curves, one class against the rest. Average precision: "
            f"{_areas(test.pr, test.classes)}.",
        ),
        "roc_curves": _drawing(
            figures.roc_curves(test.roc, test.classes),
            "ROC curves, one class against the rest. Area under the curve: "
            f"{_areas(test.roc, test.classes)}.",
        ),
        "calibration": _drawing(
            figures.reliability(calibration),
            "Reliability curve: how often the predicted class is right, by its probability. "
            f"Expected calibration error {calibration.error:.4f} with the temperature and "
            f"{calibration.without.error:.4f} without. {_bins(calibration.bins)}",
        ),
    }


def _learning_curves(leaderboard: Leaderboard) -> dict[str, Drawing]:
    trained = leaderboard.with_epochs
    if not trained:
        return {}
    names = ", ".join(entry.candidate.name for entry in trained)
    return {
        "loss_curves": _drawing(
            figures.loss_curves(leaderboard), f"Training and validation loss by epoch for: {names}."
        ),
        "score_curves": _drawing(
            figures.score_curves(leaderboard), f"Validation macro F1 by epoch for: {names}."
        ),
    }


def _drawing(figure: Figure, alternative: str, wide: bool = False) -> Drawing:
    return Drawing(figures.to_svg(figure), alternative, wide)


def _largest_confusion(test: Predictions) -> str:
    mistakes = test.confusion - np.diag(np.diagonal(test.confusion))
    if not mistakes.any():
        return "No mistake."
    true, predicted = np.unravel_index(mistakes.argmax(), mistakes.shape)
    return (
        f"The most frequent mistake: {test.classes[true]} taken for {test.classes[predicted]}, "
        f"images: {mistakes[true, predicted]}."
    )


def _areas(curves: Curves, classes: Sequence[str]) -> str:
    by_class = [f"{classes[i]} {curve.area:.3f}" for i, curve in curves.per_class.items()]
    return ", ".join([f"micro average {curves.micro.area:.3f}", *by_class])


def _bins(bins: Sequence[Bin]) -> str:
    fullest = max(bins, key=lambda bin: bin.num_images)
    return (
        f"The most images, {fullest.num_images}, have a probability from {fullest.low:.2f} "
        f"to {fullest.high:.2f}; of these {100 * fullest.accuracy:.1f} % are right."
    )


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
