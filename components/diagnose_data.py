"""Step: diagnose the images and the scores of cross-validation."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Output


@dsl.component(base_image="crossfold-train", install_kfp_package=False)
def diagnose_data(
    examples: Input[Dataset],
    features: Input[Dataset],
    predictions: Input[list[Artifact]],
    leaderboard: Input[Metrics],
    settings: dict,
    class_weights: str,
    num_threads: int,
    diagnosis: Output[Metrics],
) -> None:
    """Diagnose the images outside the test split by what cross-validation left of each.

    Args:
        examples: Table of images; the test split is not read.
        features: Stored features, labels and folds.
        predictions: Out-of-fold probabilities and results of each fold.
        leaderboard: Results of cross-validation, with the chosen candidate.
        settings: What to compute, as in params.yaml's section diagnosis.
        class_weights: Weights of the classes in the loss, "none" or "balanced".
        num_threads: Processor threads.
        diagnosis: Findings about images and scores. Kubeflow shows the figures.
    """
    from pathlib import Path

    from crossfold.step.runtime import step

    with step("diagnose_data", diagnosis.path) as run:
        from crossfold.diagnosis.diagnose_data import diagnose_data
        from crossfold.diagnosis_settings import DiagnosisSettings
        from crossfold.records import ClassWeights

        found = diagnose_data(
            examples=Path(examples.path),
            features=Path(features.path),
            predictions=[Path(artifact.path) for artifact in predictions],
            leaderboard=Path(leaderboard.path),
            settings=DiagnosisSettings(**settings),
            class_weights=ClassWeights(class_weights),
            num_threads=num_threads,
            diagnosis=Path(diagnosis.path),
        )
        diagnosis.metadata.update(found.summary)
        run.log_metrics(diagnosis.metadata)
