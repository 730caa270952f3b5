"""The file that prediction sets and novelty are told from; it is part of a registered version.

One safetensors file, data only: `scores`, int64 [N], sorted within each class, one class after
another; `num_images`, int64 [K]; and, if novelty can be told, `references`, float32 [R, C].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from crossfold.network import safetensors_file

from .class_scores import ClassScores
from .novelty import Novelty

UNSURE = "unsure"
_SCORES, _NUM_IMAGES, _REFERENCES = "scores", "num_images", "references"


class Answer(NamedTuple):
    """An image's prediction set, its labels in the order of the classes.

    `novel` says whether the image is far from all training images; None if that can't be told.
    """

    labels: tuple[str, ...]
    novel: bool | None

    @property
    def decision(self) -> str:
        """The label, if it is the only one in the set; otherwise UNSURE."""
        return self.labels[0] if len(self.labels) == 1 else UNSURE


@dataclass(frozen=True)
class Reference:
    """The out-of-fold scores of the training images, and where their features lie."""

    classes: tuple[str, ...]
    scores: ClassScores
    novelty: Novelty | None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file from `write`; nothing in it is executed."""
        arrays, about = safetensors_file.read(path)
        ends = np.cumsum(arrays[_NUM_IMAGES])[:-1]
        # Copied, because the file may be deleted.
        scores = ClassScores(tuple(np.split(np.array(arrays[_SCORES]), ends)))
        novelty = None
        if _REFERENCES in arrays:
            novelty = Novelty(np.array(arrays[_REFERENCES]), about["max_distance"])
        return cls(tuple(about["classes"]), scores, novelty)

    def write(self, path: Path) -> None:
        """Write the file."""
        by_class, novelty = self.scores.by_class, self.novelty
        arrays = {
            _SCORES: np.concatenate(by_class),
            _NUM_IMAGES: np.array([len(scores) for scores in by_class], np.int64),
            **({_REFERENCES: novelty.references} if novelty else {}),
        }
        about = {
            "classes": self.classes,
            "max_distance": novelty.max_distance if novelty else None,
        }
        safetensors_file.write(path, arrays, about)

    def answers(
        self, features: NDArray[Any], probabilities: NDArray[Any], coverage: float
    ) -> list[Answer]:
        """Answer images with sets that hold the true label with about this probability.

        Args:
            features: The input of the head, float [N, C, ...].
            probabilities: Calibrated, float [N, K].
            coverage: A share between 0 and 1.
        """
        sets = self.scores.sets(probabilities, coverage)
        novel = self.is_novel(features)
        return [
            Answer(_chosen(self.classes, inside), novel[i] if novel else None)
            for i, inside in enumerate(sets)
        ]

    def is_novel(self, features: NDArray[Any]) -> list[bool] | None:
        """Tell which images are novel by the input of the head [N, C, ...]; None if unknown."""
        if self.novelty is None:
            return None
        flags: list[bool] = self.novelty.is_novel(features).tolist()
        return flags


def _chosen(classes: Sequence[str], inside: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(name for name, is_inside in zip(classes, inside, strict=True) if is_inside)
