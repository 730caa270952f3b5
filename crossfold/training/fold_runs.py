"""Log a fold's candidates to MLflow: a nested run each."""

from collections.abc import Mapping, Sequence
from typing import Any

from crossfold.tracking.names import short_labels
from crossfold.tracking.run import Run


def log_fold(run: Run, results: Sequence[Mapping[str, Any]], *, params: Mapping[str, Any]) -> None:
    """Log one nested run per candidate under a fold's run.

    `results` are the leaderboard's folds, each with its `candidate`. `params` are what all share
    (architecture, device, image_size, num_epochs, batch_size, …). Every run carries the same keys,
    so that MLflow's parallel coordinates compare candidates across folds and pipeline runs; the
    learning rate of a head is "none". A candidate that diverged has a tag in place of scores.
    """
    labels = short_labels([result["candidate"]["name"] for result in results])
    for result, label in zip(results, labels, strict=True):
        candidate, fold = result["candidate"], result["fold"]
        tags = {
            "crossfold.kind": "candidate",
            "crossfold.candidate": candidate["name"],
            "crossfold.fold": str(fold),
        }
        with run.child(f"f{fold} {label}", tags) as child:
            settings = {key: value for key, value in candidate.items() if key != "name"}
            # MLflow's parallel coordinates begin with the first three parameters that differ, by
            # the alphabet: the fold is a tag alone, so that it is none of them.
            child.log_params({"learning_rate": "none", **params, "candidate": label, **settings})
            if "diverged" in result:
                child.set_tags({"crossfold.diverged": f"epoch {result['diverged']}"})
                continue
            # Before the curve: the plot shows the metric that was logged first.
            child.log_metrics({key: result[key] for key in ("macro_f1", "accuracy", "loss")})
            child.log_curve(result["history"])
