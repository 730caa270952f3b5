"""Diagnose the images and the scores of a run by what cross-validation left of each image."""

from collections.abc import Sequence
from pathlib import Path

from crossfold.diagnosis_settings import DiagnosisSettings
from crossfold.network import determinism

from .confused_classes import find_confused_classes
from .evidence import Evidence
from .findings import Diagnosis
from .label_errors import find_label_errors
from .outliers import find_outliers


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
    wanted, stored = settings.label_errors, evidence.features
    found = Diagnosis(
        left_out=_left_out(evidence, settings),
        label_errors=find_label_errors(evidence) if wanted else None,
        outliers=find_outliers(evidence, stored) if wanted and stored is not None else None,
        confused_classes=find_confused_classes(evidence) if wanted else None,
    )
    found.write(diagnosis)
    return found


def _left_out(evidence: Evidence, settings: DiagnosisSettings) -> dict[str, str]:
    """Say why a part was not computed."""
    reasons: dict[str, str] = {}
    if not settings.label_errors:
        off = "diagnosis.label_errors is false"
        reasons |= dict.fromkeys(("label_errors", "outliers", "confused_classes"), off)
    elif evidence.features is None:
        reasons["outliers"] = (
            "no candidate trains only the head of the chosen backbone, so its features are not "
            "stored"
        )
    return reasons
