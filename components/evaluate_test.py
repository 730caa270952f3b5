"""The step that measures the model on the test split, from the pixels."""

from kfp import dsl
from kfp.dsl import Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="crossfold-train", install_kfp_package=False)
def evaluate_test(
    examples: Input[Dataset],
    model: Input[Model],
    leaderboard: Input[Artifact],
    num_threads: int,
    evaluation: Output[Artifact],
    report_draft: Output[Artifact],
    classification: Output[ClassificationMetrics],
    metrics: Output[Metrics],
) -> None:
    """Measure the model on the test split, from the pixels, and write the report.

    Args:
        examples: The table of images; only the test split is predicted.
        model: The whole network.
        leaderboard: What cross-validation said, for the report.
        num_threads: Processor threads.
        evaluation: Probabilities, scores and confusion matrix.
        report_draft: The report, which register_model completes.
        classification: Confusion matrix and ROC curve for Kubeflow's page.
        metrics: The scores.
    """
    from pathlib import Path

    from crossfold.step import step, write_metrics

    with step("evaluate_test", evaluation.path) as run:
        from crossfold import compute
        from crossfold.evaluation import evaluate_test

        evaluated = evaluate_test(
            examples=Path(examples.path),
            model=Path(model.path),
            leaderboard=Path(leaderboard.path),
            num_threads=num_threads,
            evaluation=Path(evaluation.path),
            report_page=Path(report_draft.path),
        )
        roc = evaluated["curves"]["roc"]["micro"]
        classification.log_confusion_matrix(evaluated["classes"], evaluated["confusion_matrix"])
        classification.log_roc_curve(roc["x"], roc["y"], roc["thresholds"])
        write_metrics(classification.path, classification.metadata)
        metrics.metadata.update(
            {f"test_{name}": value for name, value in evaluated["metrics"].items()}
        )
        write_metrics(metrics.path, metrics.metadata)
        run.log_metrics(metrics.metadata)
        run.set_tags(compute.describe())
