"""The figures on the page, with their text alternatives."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from crossfold.diagnosis.findings import Diagnosis
from crossfold.records import Bin, Curves, Drawing, Evaluation, Leaderboard

from . import figures
from .predictions import Predictions, predictions

MAX_CLASSES_FITTED = 14  # with more, the confusion matrix scrolls instead of being scaled down


def draw(
    evaluation: Evaluation, leaderboard: Leaderboard, diagnosis: Diagnosis
) -> dict[str, Drawing]:
    """Draw the page's figures and write their text alternatives, by name."""
    test, calibration = predictions(evaluation), evaluation.calibration
    chosen = leaderboard.chosen
    return {
        **_learning_curves(leaderboard),
        **_learning_curve(diagnosis),
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


def _learning_curve(diagnosis: Diagnosis) -> dict[str, Drawing]:
    curve = diagnosis.learning_curve
    if curve is None:
        return {}
    points = ", ".join(f"{point.num_images}: {point.macro_f1:.3f}" for point in curve.points)
    return {
        "learning_curve": _drawing(
            figures.learning_curve(curve),
            f"Macro F1 by the number of training images, with a fitted curve. {points}.",
        )
    }


def _drawing(figure: Figure, alternative: str, wide: bool = False) -> Drawing:
    return Drawing(svg=figures.to_svg(figure), alternative=alternative, wide=wide)


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
