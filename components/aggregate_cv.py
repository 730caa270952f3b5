"""Step: rank the candidates over all folds."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Output


@dsl.component(base_image="crossfold-train", install_kfp_package=False)
def aggregate_cv(
    predictions: Input[list[Artifact]],
    architecture: str,
    leaderboard: Output[Metrics],
) -> None:
    """Choose the candidate with the highest mean macro F1 over the folds.

    Args:
        predictions: Out-of-fold probabilities and results of each fold.
        architecture: One of torchvision's classification networks.
        leaderboard: Mean, spread and interval of each candidate, and the best one. Kubeflow shows
            the best candidate's scores.
    """
    from pathlib import Path

    from crossfold.step.runtime import step

    with step("aggregate_cv", leaderboard.path) as run:
        from crossfold.evaluation.cross_validation import aggregate_cv

        board = aggregate_cv(
            predictions=[Path(artifact.path) for artifact in predictions],
            architecture=architecture,
            leaderboard=Path(leaderboard.path),
        )
        leaderboard.metadata.update(board.chosen.summary)
        run.log_metrics(leaderboard.metadata)
