"""Figures of a run: drawn once, and copied from MLflow for later runs with the same results."""

import hashlib
import io
import json
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
from mlflow.exceptions import MlflowException

from crossfold.diagnosis.findings import Diagnosis
from crossfold.records import Drawing, Drawings, Evaluation, Leaderboard
from crossfold.tracking.run import Run

# matplotlib takes a second to import, so what draws imports it.

_TAG = "crossfold.figures"  # the key of a run's figures
_FOR_REPORT = "figures.json"
_PLOTS = "plots"
_LIBRARIES = ("matplotlib", "numpy")


def log_figures(
    run: Run, leaderboard: Leaderboard, evaluation: Evaluation, diagnosis: Diagnosis, code: str
) -> Mapping[str, Drawing]:
    """Log the figures of a run's results to its MLflow run, and return those of the report.

    `code` names the version of Crossfold that draws.
    """
    key = _key(leaderboard, evaluation, diagnosis, code)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawings = _copy(run, key, folder) or _draw(leaderboard, evaluation, diagnosis, folder)
        run.client.log_artifacts(run.id, name)
    run.set_tags({_TAG: key})
    return drawings.by_name


def _key(leaderboard: Leaderboard, evaluation: Evaluation, diagnosis: Diagnosis, code: str) -> str:
    """Hash everything that the figures depend on."""
    libraries = [version(name) for name in _LIBRARIES]
    results = [record.to_json() for record in (leaderboard, evaluation, diagnosis)]
    content = [*results, code, libraries]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _copy(run: Run, key: str, folder: Path) -> Drawings | None:
    """Copy the figures of the last run with this key to `folder`; None if they are gone."""
    query = f"tags.{_TAG} = '{key}'"
    for earlier in run.client.search_runs([run.experiment_id], query, max_results=1):
        try:
            for artifact in (_PLOTS, _FOR_REPORT):
                run.client.download_artifacts(earlier.info.run_id, artifact, str(folder))
        except (MlflowException, OSError):  # the user has deleted them
            return None
        return Drawings.recall(folder / _FOR_REPORT)
    return None


def _draw(
    leaderboard: Leaderboard, evaluation: Evaluation, diagnosis: Diagnosis, folder: Path
) -> Drawings:
    from crossfold.report import drawings, figures

    confusion, classes = np.array(evaluation.confusion_matrix), evaluation.classes
    plots = {
        "confusion_matrix": figures.confusion_matrix(confusion, classes),
        "pr_curves": figures.pr_curves(evaluation.curves.pr, classes),
        "roc_curves": figures.roc_curves(evaluation.curves.roc, classes),
    }
    if leaderboard.with_epochs:
        plots["loss_curves"] = figures.loss_curves(leaderboard)
        plots["score_curves"] = figures.score_curves(leaderboard)
    (folder / _PLOTS).mkdir(exist_ok=True)
    for name, figure in plots.items():
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=150)
        (folder / _PLOTS / f"{name}.png").write_bytes(file.getvalue())
    drawn = Drawings(by_name=drawings.draw(evaluation, leaderboard, diagnosis))
    drawn.write(folder / _FOR_REPORT)
    return drawn
