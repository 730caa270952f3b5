"""Diagnose the images and the scores of a run by what cross-validation left of each image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from threadpoolctl import threadpool_limits

from crossfold.data.examples import TEST
from crossfold.diagnosis_settings import DiagnosisSettings
from crossfold.network import determinism
from crossfold.records import ClassWeights, Record

from .evidence import Evidence
from .findings import Diagnosis
from .labels.confused_classes import find_confused_classes
from .labels.label_errors import find_label_errors
from .labels.outliers import find_outliers
from .shortcuts.shortcut_test import MAX_CLASSES, find_shortcuts
from .trust.learning_curve import learning_curve
from .trust.nested_cv import nest_cv
from .trust.permutation_test import has_mixed_groups, permutation_test
from .trust.power import power
from .trust.repeated_cv import repeat_cv

MAX_IMAGES = 5000  # with more, a hundred fits take minutes
NO_FEATURES = (
    "no candidate trains only the head of the chosen backbone, so its features are not stored"
)


@dataclass(frozen=True)
class _Part:
    """A part of the diagnosis: its setting, if it has one, and the function that computes it."""

    setting: str | None
    compute: Callable[[Evidence, DiagnosisSettings], Record]
    needs_features: bool = False
    max_images: int | None = None
    max_classes: int | None = None
    impossible: Callable[[Evidence], str] = lambda _: ""  # says why; empty if it is possible


def _repeated_cv(evidence: Evidence, settings: DiagnosisSettings) -> Record:
    return repeat_cv(
        evidence.head_inputs,
        evidence.labels,
        evidence.content_hashes,
        evidence.groups,
        evidence.heads,
        num_folds=evidence.leaderboard.num_folds,
        num_repeats=settings.repeats,
        weighting=evidence.class_weights,
    )


def _nested_cv(evidence: Evidence, _: DiagnosisSettings) -> Record:
    return nest_cv(
        evidence.head_inputs,
        evidence.labels,
        evidence.folds,
        evidence.heads,
        evidence.class_weights,
    )


def _permutation_test(evidence: Evidence, settings: DiagnosisSettings) -> Record:
    return permutation_test(
        evidence.head_inputs,
        evidence.labels,
        evidence.folds,
        evidence.groups,
        num_permutations=settings.permutations,
    )


def _learning_curve(evidence: Evidence, _: DiagnosisSettings) -> Record:
    best = evidence.best_head
    return learning_curve(
        evidence.head_inputs,
        evidence.labels,
        evidence.folds,
        evidence.groups,
        evidence.classes,
        head=best.name,
        weight_decay=best.weight_decay,
        weighting=evidence.class_weights,
    )


def _power(evidence: Evidence, _: DiagnosisSettings) -> Record:
    return power(evidence.leaderboard, len(evidence.labels), evidence.table.count(TEST))


def _no_choice(evidence: Evidence) -> str:
    if len(evidence.heads) < 2:
        return "there is only one head, so nothing is chosen among heads"
    return "with two folds, none is left to choose by" if evidence.leaderboard.num_folds < 3 else ""


def _no_exchange(evidence: Evidence) -> str:
    mixed = has_mixed_groups(evidence.labels, evidence.groups)
    return "groups hold several classes, so labels can't be exchanged between groups" * mixed


_PARTS = {
    "label_errors": _Part("label_errors", lambda evidence, _: find_label_errors(evidence)),
    "outliers": _Part(
        "label_errors", lambda evidence, _: find_outliers(evidence, evidence.head_inputs), True
    ),
    "confused_classes": _Part("label_errors", lambda evidence, _: find_confused_classes(evidence)),
    "shortcuts": _Part(
        "shortcuts", lambda evidence, _: find_shortcuts(evidence), max_classes=MAX_CLASSES
    ),
    "repeated_cv": _Part("repeats", _repeated_cv, True, MAX_IMAGES),
    "nested_cv": _Part("nested", _nested_cv, True, MAX_IMAGES, impossible=_no_choice),
    "permutation_test": _Part("permutations", _permutation_test, True, impossible=_no_exchange),
    "learning_curve": _Part("learning_curve", _learning_curve, True, MAX_IMAGES),
    "power": _Part(None, _power),
}


def diagnose_data(
    *,
    examples: Path,
    features: Path,
    predictions: Sequence[Path],
    leaderboard: Path,
    settings: DiagnosisSettings,
    class_weights: ClassWeights,
    num_threads: int,
    diagnosis: Path,
) -> Diagnosis:
    """Diagnose the images outside the test split, and write the findings.

    Args:
        examples: the table of examples.
        features: the file of features.
        predictions: the out-of-fold predictions of each fold.
        leaderboard: the results of cross-validation.
        settings: what to compute.
        class_weights: how classes weigh in the loss of the heads.
        num_threads: processor threads.
        diagnosis: the file to write.
    """
    determinism.prepare(num_threads)
    evidence = Evidence.read(examples, features, predictions, leaderboard, class_weights)
    reasons = {
        name: _reason_to_leave_out(part, evidence, settings) for name, part in _PARTS.items()
    }
    left_out = {name: reason for name, reason in reasons.items() if reason}
    # The sums don't depend on the number of threads then, and threads that wait for products of
    # small matrices take up to forty times as long.
    with threadpool_limits(limits=1, user_api="blas"):
        computed = {
            name: part.compute(evidence, settings)
            for name, part in _PARTS.items()
            if name not in left_out
        }
    found = Diagnosis.model_validate({"left_out": left_out, **computed})
    found.write(diagnosis)
    return found


def _reason_to_leave_out(part: _Part, evidence: Evidence, settings: DiagnosisSettings) -> str:
    """Say why a part cannot or shall not be computed; empty if it is."""
    value = getattr(settings, part.setting) if part.setting else True
    if not value:
        return f"diagnosis.{part.setting} is {str(value).lower()}"
    if part.needs_features and evidence.features is None:
        return NO_FEATURES
    if part.max_images is not None and len(evidence.labels) > part.max_images:
        return f"there are more than {part.max_images:,} images"
    if part.max_classes is not None and len(evidence.classes) > part.max_classes:
        return f"there are more than {part.max_classes} classes"
    return part.impossible(evidence)
