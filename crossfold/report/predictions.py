"""The test split's predictions as arrays, for the page and for DVC's files."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfold.records import Curves, Evaluation


@dataclass(frozen=True)
class Predictions:
    """The test split: labels [N], probabilities [N, K], and values derived from them."""

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    predicted: NDArray[np.int64]
    confusion: NDArray[np.int64]
    roc: Curves
    pr: Curves

    @property
    def num_right(self) -> int:
        """The number of images whose most probable class is the true one."""
        return int(np.trace(self.confusion))


def predictions(evaluation: Evaluation) -> Predictions:
    """Convert an evaluation's predictions to arrays."""
    probabilities = np.array(evaluation.probabilities, np.float64)
    return Predictions(
        classes=evaluation.classes,
        paths=evaluation.paths,
        labels=np.array(evaluation.labels, np.int64),
        probabilities=probabilities,
        predicted=probabilities.argmax(axis=1),
        confusion=np.array(evaluation.confusion_matrix, np.int64),
        roc=evaluation.curves.roc,
        pr=evaluation.curves.pr,
    )
