"""Diagnose the images and the scores of a run by what cross-validation left of each image."""

from collections.abc import Sequence
from pathlib import Path

from crossfold.diagnosis_settings import DiagnosisSettings
from crossfold.network import determinism

from .evidence import Evidence
from .findings import Diagnosis
from .shortcuts import find_shortcuts


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
    found = Diagnosis(
        left_out=_left_out(settings),
        shortcuts=find_shortcuts(evidence) if settings.shortcuts else None,
    )
    found.write(diagnosis)
    return found


def _left_out(settings: DiagnosisSettings) -> dict[str, str]:
    """Say why a part was not computed."""
    return {} if settings.shortcuts else {"shortcuts": "diagnosis.shortcuts is false"}
