"""Build a model's reference from cross-validation."""

from collections.abc import Sequence
from pathlib import Path

from crossfold.evaluation import calibration
from crossfold.evaluation.out_of_fold import chosen_probabilities
from crossfold.features.features_file import Features
from crossfold.records import Leaderboard
from crossfold.settings import HEAD

from .class_scores import ClassScores
from .novelty import Novelty
from .reference import Reference


def build_reference(
    features: Features, predictions: Sequence[Path], board: Leaderboard
) -> Reference:
    """Score the training images by the chosen candidate's out-of-fold probabilities.

    They get the final model's temperature. Novelty is told only if the chosen candidate is a head:
    any other one changes the features that are stored.
    """
    probabilities = calibration.tempered(
        chosen_probabilities(predictions, board), board.temperature
    )
    candidate = board.chosen.candidate
    novelty = None
    if candidate.train_from == HEAD:
        inputs = features.head_inputs(features.backbone(candidate.backbone))
        assert inputs is not None
        novelty = Novelty.fit(inputs, features.labels, features.folds)
    return Reference(features.classes, ClassScores.of(features.labels, probabilities), novelty)
