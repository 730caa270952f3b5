"""Collect what a run knows of each image outside the test split."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from crossfold.data.examples import TRAIN, Examples
from crossfold.evaluation.out_of_fold import chosen_probabilities
from crossfold.features.features_file import Features
from crossfold.records import ClassWeights, Leaderboard, NamedCandidate

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
        content_hashes: the hash of each image's content.
        groups: int64 [N]; images with the same number belong together. The numbers follow the
            groups' contents, so no order that they decide depends on the files' names.
        probabilities: float32 [N, K], the chosen candidate's, out of fold.
        features: float32 [N, C], the input of the head of the chosen candidate's backbone, as a
            mean over positions; None if no candidate trains that head alone.
        leaderboard: the results of cross-validation.
        class_weights: how classes weigh in the loss.
    """

    table: Examples
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: Numbers
    folds: Numbers
    content_hashes: tuple[str, ...]
    groups: Numbers
    probabilities: Values
    features: Values | None
    leaderboard: Leaderboard
    class_weights: ClassWeights = ClassWeights.NONE

    @classmethod
    def read(
        cls,
        examples: Path,
        features: Path,
        predictions: Sequence[Path],
        leaderboard: Path,
        class_weights: ClassWeights,
    ) -> Self:
        """Read the artifacts of a run, and keep its setting `training.class_weights`."""
        table, stored, board = Examples(examples), Features(features), Leaderboard.read(leaderboard)
        return cls(
            table=table,
            classes=stored.classes,
            paths=tuple(table.column("path", TRAIN)),
            labels=stored.labels,
            folds=stored.folds,
            content_hashes=(contents := tuple(table.column("content_hash", TRAIN))),
            groups=number_by_content(table.column("group", TRAIN), contents),
            probabilities=chosen_probabilities(predictions, board),
            features=stored.head_inputs(stored.backbone(board.chosen.candidate.backbone)),
            leaderboard=board,
            class_weights=class_weights,
        )

    @property
    def head_inputs(self) -> Values:
        """The features; only for a run that has them."""
        assert self.features is not None
        return self.features

    @property
    def heads(self) -> dict[str, float]:
        """The weight decays of the candidates that train the chosen backbone's head, by name."""
        board = self.leaderboard
        return {
            entry.candidate.name: entry.candidate.weight_decay
            for entry in board.candidates
            if entry.candidate.freeze_backbone and entry.backbone.name == board.chosen.backbone.name
        }

    @property
    def best_head(self) -> NamedCandidate:
        """The candidate of `heads` with the best score; only for a run that has its features."""
        heads = self.heads
        return next(e for e in self.leaderboard.ranked if e.candidate.name in heads).candidate


def number_by_content(groups: Iterable[int], content_hashes: Sequence[str]) -> Numbers:
    """Number the groups of N images anew, in the order of their smallest content hash, [N]."""
    smallest: dict[int, str] = {}
    numbers = list(groups)
    for group, content_hash in zip(numbers, content_hashes, strict=True):
        smallest[group] = min(content_hash, smallest.get(group, content_hash))
    ordered = sorted(smallest, key=smallest.__getitem__)
    places = {group: place for place, group in enumerate(ordered)}
    return np.array([places[group] for group in numbers], np.int64)
