"""Step: rank the candidates over all folds, and choose one."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Output


@dsl.component(base_image="crossfold-train", install_kfp_package=False)
def aggregate_cv(
    predictions: Input[list[Artifact]],
    choice: str,
    leaderboard: Output[Metrics],
) -> None:
    """Rank the candidates by their mean macro F1 over the folds, and choose one.

    Args:
        predictions: Out-of-fold probabilities and results of each fold.
        choice: "best", or "smallest": the fewest parameters within one standard error of the best.
        leaderboard: Mean, spread and interval of each candidate, and the chosen one. Kubeflow shows
            the chosen candidate's scores.
    """
    from pathlib import Path

    from crossfold.step.runtime import step

    with step("aggregate_cv", leaderboard.path) as run:
        from crossfold.evaluation.cross_validation import aggregate_cv
        from crossfold.records import Choice

        board = aggregate_cv(
            predictions=[Path(artifact.path) for artifact in predictions],
            choice=Choice(choice),
            leaderboard=Path(leaderboard.path),
        )
        leaderboard.metadata.update(board.summary)
        run.log_metrics(leaderboard.metadata)
