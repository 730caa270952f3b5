"""What a cross-validation, a final fit and a test gave, and whether two of them are the same."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from crossfold.evaluation import metrics

LOSS_TOLERANCE = 1e-4  # relative
IMAGES_PER_DIFFERENCE = 300  # in bfloat16, one prediction in so many may differ


@dataclass(frozen=True)
class Scored:
    """One split's predictions and scores."""

    predictions: list[int]
    accuracy: float
    macro_f1: float
    loss: float

    @classmethod
    def of(cls, labels: Any, probabilities: np.ndarray[Any, Any]) -> "Scored":
        scores = metrics.scores(labels, probabilities)
        return cls(
            predictions=probabilities.argmax(axis=1).tolist(),
            accuracy=scores["accuracy"],
            macro_f1=scores["macro_f1"],
            loss=scores["loss"],
        )


@dataclass(frozen=True)
class Outcome:
    """Each fold's out-of-fold split, and the test."""

    folds: list[Scored]
    test: Scored

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Outcome":
        folds = [Scored(**fold) for fold in values["folds"]]
        return cls(**{**values, "folds": folds, "test": Scored(**values["test"])})

    @property
    def splits(self) -> Sequence[Scored]:
        return (*self.folds, self.test)


def num_different(one: Outcome, other: Outcome) -> tuple[int, int]:
    """Return how many predictions differ, of how many."""
    pairs = [
        (a, b)
        for left, right in zip(one.splits, other.splits, strict=True)
        for a, b in zip(left.predictions, right.predictions, strict=True)
    ]
    return sum(a != b for a, b in pairs), len(pairs)


def require_same(one: Outcome, other: Outcome, what: str) -> None:
    """Refuse two float32 outcomes that are not the same.

    Every prediction, accuracy and macro F1 must be equal; losses, which are sums
    of roundings, within LOSS_TOLERANCE.
    """
    different, total = num_different(one, other)
    problems = [f"{different} of {total} predictions differ"] if different else []
    for index, (left, right) in enumerate(zip(one.splits, other.splits, strict=True)):
        name = "test" if index == len(one.folds) else f"fold {index}"
        if (left.accuracy, left.macro_f1) != (right.accuracy, right.macro_f1):
            problems.append(f"{name}: accuracy or macro F1 differs")
        if abs(left.loss - right.loss) > LOSS_TOLERANCE * abs(left.loss):
            problems.append(f"{name}: the losses are {left.loss:.6f} and {right.loss:.6f}")
    if problems:
        raise SystemExit(f"{what}: {'; '.join(problems)}")


def require_close(one: Outcome, other: Outcome, what: str) -> None:
    """Refuse a bfloat16 outcome in which more than one prediction in 300 differs."""
    different, total = num_different(one, other)
    if different * IMAGES_PER_DIFFERENCE > max(total, IMAGES_PER_DIFFERENCE):
        raise SystemExit(f"{what}: {different} of {total} predictions differ")
