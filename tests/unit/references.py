"""A file for prediction sets, for tests of what only reads one."""

from pathlib import Path

import numpy as np

from crossfold.evaluation.prediction_sets.class_scores import UNITS, ClassScores
from crossfold.evaluation.prediction_sets.reference import Reference


def write_reference(path: Path, classes: tuple[str, ...]) -> None:
    """Write scores 1/20 to 19/20 of each class, so that a label's p-value is its probability.

    Nothing is known of novelty.
    """
    scores = np.arange(1, 20) * UNITS // 20
    Reference(classes, ClassScores((scores,) * len(classes)), novelty=None).write(path)
