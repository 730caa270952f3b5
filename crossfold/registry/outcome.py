"""Log a pipeline run's result to its own MLflow run: settings, scores, figures."""

import io
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np

from crossfold.tracking.names import run_name
from crossfold.tracking.run import Run
from crossfold.tracking.runs import parent_tags
from crossfold.tracking.store import (
    pipeline_run_id,
)


def log_outcome(
    run: Run,
    *,
    leaderboard: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Log a pipeline run under its own run: settings, the chosen candidate, scores, figures.

    `settings` are params.yaml's sections; of the candidates, only the chosen one is logged. The
    run is marked as the pipeline run's, since Kubeflow's plugin may have opened it.
    """
    from crossfold.evaluation import metrics
    from crossfold.report import figures

    best = leaderboard["candidates"][leaderboard["best"]]
    chosen = {("candidate" if k == "name" else k): v for k, v in best["candidate"].items()}
    flat = {
        f"{section}.{key}": value
        for section, values in settings.items()
        if isinstance(values, Mapping)
        for key, value in values.items()
    }
    architecture = leaderboard["architecture"]
    run.set_tags(parent_tags(pipeline_run_id()))
    run.log_params(
        {"learning_rate": "none", **flat, **chosen, "architecture": architecture, "device": "cpu"}
    )
    run.log_dataset("data", evaluation["data_hash"], settings["data"]["remote"])
    started = datetime.fromtimestamp(run.started / 1000)
    run.rename(run_name(started, chosen["candidate"], architecture))
    run.log_metrics(
        {f"cv_{name}": value for name, value in best["mean"].items()}
        | {f"cv_{name}_std": value for name, value in best["std"].items()}
        | {f"test_{name}": value for name, value in evaluation["metrics"].items()}
    )
    run.log_artifact(json.dumps(leaderboard), "leaderboard.json")
    run.log_artifact(json.dumps(evaluation), "evaluation.json")
    curves = {kind: metrics.Curves.from_json(c) for kind, c in evaluation["curves"].items()}
    confusion, classes = np.array(evaluation["confusion_matrix"]), evaluation["classes"]
    drawn = {
        "confusion_matrix": figures.confusion_matrix(confusion, classes),
        "pr_curves": figures.pr_curves(curves["pr"], classes),
        "roc_curves": figures.roc_curves(curves["roc"], classes),
    }
    if figures.with_epochs(dict(leaderboard)):
        drawn["loss_curves"] = figures.loss_curves(dict(leaderboard))
        drawn["score_curves"] = figures.score_curves(dict(leaderboard))
    for name, figure in drawn.items():
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=150)
        run.log_artifact(file.getvalue(), f"plots/{name}.png")
