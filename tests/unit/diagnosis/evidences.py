"""Evidence made of labels and probabilities, without a run's files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossfold.data.examples import Examples
from crossfold.diagnosis.evidence import Evidence, Numbers
from crossfold.records import Leaderboard

RECORDED = Path(__file__).parents[1] / "recorded"


def evidence(table: Path, labels: Numbers, probabilities: NDArray[np.float64]) -> Evidence:
    """Make the evidence of images 0.png, 1.png, …, each a group by itself, of classes 0, 1, …"""
    number = np.arange(len(labels))
    return Evidence(
        table=Examples(table),
        classes=tuple(str(label) for label in range(probabilities.shape[1])),
        paths=tuple(f"{n}.png" for n in number),
        labels=labels,
        folds=number % 2,
        content_hashes=tuple(f"{n:06}" for n in number),
        groups=number,
        probabilities=probabilities.astype(np.float32),
        features=None,
        leaderboard=Leaderboard.read(RECORDED / "leaderboard.json"),
    )


def with_groups(evidence: Evidence, groups: Numbers) -> Evidence:
    """Give the images other groups."""
    return replace(evidence, groups=groups)
