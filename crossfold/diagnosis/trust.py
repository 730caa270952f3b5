"""Compute from a run's evidence how far its score can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossfold.data.examples import TEST

from .learning_curve import LearningCurve, learning_curve
from .permutation_test import PermutationTest, permutation_test
from .power import Power, power
from .repeated_cv import NestedCV, RepeatedCV, nest_cv, repeat_cv

if TYPE_CHECKING:
    # Importing it imports torch, which readers of the records do without.
    from crossfold.diagnosis_settings import DiagnosisSettings

    from .evidence import Evidence, Values

MAX_IMAGES = 5000  # with more, a hundred fits take minutes


def heads(evidence: Evidence) -> dict[str, float]:
    """List the weight decays of the candidates that train the chosen backbone's head, by name."""
    board = evidence.leaderboard
    return {
        entry.candidate.name: entry.candidate.weight_decay
        for entry in board.candidates
        if entry.candidate.freeze_backbone and entry.backbone.name == board.chosen.backbone.name
    }


def repeated(evidence: Evidence, settings: DiagnosisSettings) -> RepeatedCV:
    """Repeat cross-validation of the heads."""
    return repeat_cv(
        _features(evidence),
        evidence.labels,
        evidence.groups,
        heads(evidence),
        num_folds=evidence.leaderboard.num_folds,
        num_repeats=settings.repeats,
    )


def nested(evidence: Evidence, settings: DiagnosisSettings) -> NestedCV:
    """Cross-validate the choice among the heads."""
    return nest_cv(_features(evidence), evidence.labels, evidence.folds, heads(evidence))


def permuted(evidence: Evidence, settings: DiagnosisSettings) -> PermutationTest:
    """Test whether there is any signal."""
    return permutation_test(
        _features(evidence),
        evidence.labels,
        evidence.folds,
        evidence.groups,
        num_permutations=settings.permutations,
    )


def comparison(evidence: Evidence, settings: DiagnosisSettings) -> Power:
    """Estimate what a comparison on the test split can show."""
    return power(evidence.leaderboard, len(evidence.labels), evidence.table.count(TEST))


def more_images(evidence: Evidence, settings: DiagnosisSettings) -> LearningCurve:
    """Estimate what more images are worth, by the best head."""
    best = next(e for e in evidence.leaderboard.ranked if e.candidate.name in heads(evidence))
    return learning_curve(
        _features(evidence),
        evidence.labels,
        evidence.folds,
        evidence.classes,
        head=best.candidate.name,
        weight_decay=best.candidate.weight_decay,
    )


def _features(evidence: Evidence) -> Values:
    assert evidence.features is not None
    return evidence.features
