"""Diagnose the images and the scores of a run by what cross-validation left of each image."""

from collections.abc import Sequence
from pathlib import Path

from crossfold.diagnosis_settings import DiagnosisSettings
from crossfold.network import determinism

from . import shortcuts
from .evidence import Evidence
from .findings import Diagnosis


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
    left_out = _left_out(evidence, settings)
    found = Diagnosis(
        left_out=left_out,
        shortcuts=None if "shortcuts" in left_out else shortcuts.find_shortcuts(evidence),
    )
    found.write(diagnosis)
    return found


def _left_out(evidence: Evidence, settings: DiagnosisSettings) -> dict[str, str]:
    """Say why a part was not computed."""
    left_out = {}
    if not settings.shortcuts:
        left_out["shortcuts"] = "diagnosis.shortcuts is false"
    elif len(evidence.classes) > shortcuts.MAX_CLASSES:
        left_out["shortcuts"] = f"there are more than {shortcuts.MAX_CLASSES} classes"
    return left_out
