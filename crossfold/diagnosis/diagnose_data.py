"""Diagnose the images and the scores of a run by what cross-validation left of each image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossfold.diagnosis_settings import DiagnosisSettings
from crossfold.network import determinism
from crossfold.records import Record

from .confused_classes import find_confused_classes
from .evidence import Evidence
from .findings import Diagnosis
from .label_errors import find_label_errors
from .outliers import find_outliers
from .shortcuts import MAX_CLASSES, find_shortcuts

NO_FEATURES = (
    "no candidate trains only the head of the chosen backbone, so its features are not stored"
)


@dataclass(frozen=True)
class _Part:
    """A part of the diagnosis: its setting, and the function that computes its record."""

    setting: str
    compute: Callable[[Evidence], Record]
    needs_features: bool = False
    max_classes: int | None = None


def _outliers(evidence: Evidence) -> Record:
    assert evidence.features is not None
    return find_outliers(evidence, evidence.features)


_PARTS = {
    "label_errors": _Part("label_errors", find_label_errors),
    "outliers": _Part("label_errors", _outliers, needs_features=True),
    "confused_classes": _Part("label_errors", find_confused_classes),
    "shortcuts": _Part("shortcuts", find_shortcuts, max_classes=MAX_CLASSES),
}


def diagnose_data(
    *,
    examples: Path,
    features: Path,
    predictions: Sequence[Path],
    leaderboard: Path,
    settings: DiagnosisSettings,
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
        num_threads: processor threads.
        diagnosis: the file to write.
    """
    determinism.prepare(num_threads)
    evidence = Evidence.read(examples, features, predictions, leaderboard)
    reasons = {
        name: _reason_to_leave_out(part, evidence, settings) for name, part in _PARTS.items()
    }
    left_out = {name: reason for name, reason in reasons.items() if reason}
    computed = {
        name: part.compute(evidence) for name, part in _PARTS.items() if name not in left_out
    }
    found = Diagnosis.model_validate({"left_out": left_out, **computed})
    found.write(diagnosis)
    return found


def _reason_to_leave_out(part: _Part, evidence: Evidence, settings: DiagnosisSettings) -> str:
    """Say why a part cannot or shall not be computed; empty if it is."""
    value = getattr(settings, part.setting)
    if not value:
        return f"diagnosis.{part.setting} is {str(value).lower()}"
    if part.needs_features and evidence.features is None:
        return NO_FEATURES
    if part.max_classes is not None and len(evidence.classes) > part.max_classes:
        return f"there are more than {part.max_classes} classes"
    return ""
