"""Log a fold's candidates to MLflow, each as a nested run."""

from collections.abc import Mapping
from typing import Any

from crossfold.evaluation.metrics import fold_metrics
from crossfold.records import DivergedResult, FoldResults, backbone_of
from crossfold.tracking.names import short_labels
from crossfold.tracking.run import Run


def log_candidates(run: Run, fold: FoldResults, *, params: Mapping[str, Any]) -> None:
    """Log one nested run per candidate under a fold's run.

    All candidates share `params` (device, num_epochs, …). Every run has the same
    keys, so MLflow's parallel coordinates compare candidates across folds and pipeline runs; the
    learning rate of a head is "none". A candidate that diverged has a tag instead of scores.
    """
    labels = short_labels([result.candidate.name for result in fold.results])
    for result, label in zip(fold.results, labels, strict=True):
        backbone = backbone_of(result.candidate, fold.backbones)
        tags = {
            "crossfold.kind": "candidate",
            "crossfold.candidate": result.candidate.name,
            "crossfold.fold": str(result.fold),
        }
        with run.child(f"f{result.fold} {label}", tags) as child:
            settings = result.candidate.hyper_parameters
            # MLflow's parallel coordinates start with the first three parameters that differ, in
            # alphabetical order. The fold is only a tag, so it takes no place among them.
            child.log_params(
                {
                    "architecture": backbone.architecture,
                    "learning_rate": "none",
                    **params,
                    "candidate": label,
                    **settings,
                }
            )
            if isinstance(result, DivergedResult):
                child.set_tags({"crossfold.diverged": f"epoch {result.diverged}"})
                continue
            # Before the curve: the plot shows the metric that was logged first.
            child.log_metrics({m.name: result.scores[m.name] for m in fold_metrics()})
            child.log_curve([epoch.model_dump() for epoch in result.history])
