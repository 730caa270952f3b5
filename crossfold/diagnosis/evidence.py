"""Collect what a run knows of each image outside the test split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from crossfold.data.examples import TRAIN, Examples
from crossfold.features.features_file import Features
from crossfold.network import safetensors_file
from crossfold.records import FoldResults, Leaderboard

Numbers = NDArray[np.int64]
Values = NDArray[Any]


@dataclass(frozen=True)
class Evidence:
    """The images outside the test split, in the order of the table.

    Attributes:
        table: the table of examples.
        classes: the names of the K classes.
        paths: the path of each image.
        labels: int64 [N].
        folds: int64 [N].
        groups: int64 [N]; images with the same number belong together.
        probabilities: float32 [N, K], the chosen candidate's, out of fold.
        features: float32 [N, C], the input of the head of the chosen candidate's backbone, as a
            mean over positions; None if no candidate trains that head alone.
        leaderboard: the results of cross-validation.
    """

    table: Examples
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: Numbers
    folds: Numbers
    groups: Numbers
    probabilities: Values
    features: Values | None
    leaderboard: Leaderboard

    @classmethod
    def read(
        cls, examples: Path, features: Path, predictions: Sequence[Path], leaderboard: Path
    ) -> Self:
        """Read the artifacts of a run."""
        table, stored, board = Examples(examples), Features(features), Leaderboard.read(leaderboard)
        return cls(
            table=table,
            classes=stored.classes,
            paths=tuple(table.column("path", TRAIN)),
            labels=stored.labels,
            folds=stored.folds,
            groups=table.column("group", TRAIN).astype(np.int64),
            probabilities=_out_of_fold(predictions, board),
            features=stored.head_inputs(stored.backbone(board.chosen.candidate.backbone)),
            leaderboard=board,
        )


def _out_of_fold(predictions: Sequence[Path], board: Leaderboard) -> Values:
    """Collect the chosen candidate's probabilities in the order of the images."""
    rows, probabilities = [], []
    for path in predictions:
        arrays, metadata = safetensors_file.read(path)
        names = [r.candidate.name for r in FoldResults.model_validate(metadata).results]
        rows.append(arrays["row"])
        probabilities.append(arrays[f"probabilities_{names.index(board.chosen.candidate.name)}"])
    ordered: Values = np.concatenate(probabilities)[np.argsort(np.concatenate(rows))]
    return ordered
