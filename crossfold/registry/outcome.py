"""Log a pipeline run's result to its own MLflow run: settings, scores, figures."""

import io
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np

from crossfold.records import Evaluation, Leaderboard
from crossfold.tracking.names import run_name
from crossfold.tracking.run import Run
from crossfold.tracking.runs import parent_tags
from crossfold.tracking.store import pipeline_run_id


def log_outcome(
    run: Run,
    *,
    leaderboard: Leaderboard,
    evaluation: Evaluation,
    settings: Mapping[str, Any],
) -> None:
    """Log a pipeline run's settings, chosen candidate, scores and figures to its MLflow run.

    `settings` are the sections of params.yaml; of the candidates, only the chosen one is logged.
    The MLflow run may have been opened by Kubeflow's plugin, so it is tagged as the parent run of
    a pipeline run.
    """
    from crossfold.report import figures

    candidate = leaderboard.chosen.candidate
    flat = {
        f"{section}.{key}": value
        for section, values in settings.items()
        if isinstance(values, Mapping)
        for key, value in values.items()
    }
    run.set_tags(parent_tags(pipeline_run_id()))
    run.log_params(
        {
            "learning_rate": "none",
            **flat,
            "candidate": candidate.name,
            **candidate.hyper_parameters,
            "architecture": leaderboard.architecture,
            "device": "cpu",
        }
    )
    run.log_dataset("data", evaluation.data_hash, settings["data"]["remote"])
    started = datetime.fromtimestamp(run.started / 1000)
    run.rename(run_name(started, candidate.name, leaderboard.architecture))
    run.log_metrics(leaderboard.chosen.summary | evaluation.summary)
    run.log_artifact(leaderboard.to_json(), "leaderboard.json")
    run.log_artifact(evaluation.to_json(), "evaluation.json")
    confusion, classes = np.array(evaluation.confusion_matrix), evaluation.classes
    drawn = {
        "confusion_matrix": figures.confusion_matrix(confusion, classes),
        "pr_curves": figures.pr_curves(evaluation.curves.pr, classes),
        "roc_curves": figures.roc_curves(evaluation.curves.roc, classes),
    }
    if leaderboard.with_epochs:
        drawn["loss_curves"] = figures.loss_curves(leaderboard)
        drawn["score_curves"] = figures.score_curves(leaderboard)
    for name, figure in drawn.items():
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=150)
        run.log_artifact(file.getvalue(), f"plots/{name}.png")
