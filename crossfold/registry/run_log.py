"""Log a pipeline run's results to its own MLflow run: settings, scores, decision."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from crossfold.diagnosis.findings import Diagnosis
from crossfold.records import Evaluation, Leaderboard, Registration
from crossfold.tracking.names import run_name
from crossfold.tracking.run import Run
from crossfold.tracking.run_tree import parent_tags
from crossfold.tracking.store import pipeline_run_id


def log_results(
    run: Run,
    *,
    leaderboard: Leaderboard,
    evaluation: Evaluation,
    diagnosis: Diagnosis,
    settings: Mapping[str, Any],
) -> None:
    """Log a pipeline run's settings, chosen candidate and scores to its MLflow run.

    `settings` are the sections of params.yaml; of the candidates, only the chosen one is logged.
    The MLflow run may have been opened by Kubeflow's plugin, so it is tagged as the parent run of
    a pipeline run.
    """
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
    run.log_metrics(leaderboard.summary | evaluation.summary | diagnosis.summary)
    run.log_artifact(leaderboard.to_json(), "leaderboard.json")
    run.log_artifact(evaluation.to_json(), "evaluation.json")
    run.log_artifact(diagnosis.to_json(), "diagnosis.json")


def log_registration(run: Run, registered: Registration, page: str) -> None:
    """Log version, gate's decision and report to a pipeline run's MLflow run."""
    run.set_tags(
        {
            "crossfold.version": f"{registered.name}/{registered.version}",
            "crossfold.gate": registered.gate,
            "crossfold.gate_verdict": registered.verdict.value,
            "crossfold.gate_reason": registered.reason,
        }
    )
    run.log_artifact(page, "report.html")
    run.log_artifact(registered.to_json(), "registration.json")
