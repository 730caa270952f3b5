"""Step: score the model on the test split, from the image files."""

from kfp import dsl
from kfp.dsl import ClassificationMetrics, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="crossfold-train", install_kfp_package=False)
def evaluate_test(
    examples: Input[Dataset],
    model: Input[Model],
    num_threads: int,
    evaluation: Output[Metrics],
    roc_and_confusion_matrix: Output[ClassificationMetrics],
) -> None:
    """Score the model on the test split, from the image files.

    Args:
        examples: Table of images; only the test split is predicted.
        model: Folder with the whole network.
        num_threads: Processor threads.
        evaluation: Probabilities, scores, intervals, curves, calibration, prediction sets and
            latency. Kubeflow shows the scores.
        roc_and_confusion_matrix: ROC curve and confusion matrix for Kubeflow's page.
    """
    from pathlib import Path

    from crossfold.step.runtime import step, write_metrics

    with step("evaluate_test", evaluation.path) as run:
        from crossfold.evaluation.test_split import evaluate_test
        from crossfold.network import GRAPH_FILE, NETWORK_FILE, SETS_FILE, determinism

        evaluated = evaluate_test(
            examples=Path(examples.path),
            model=Path(model.path) / NETWORK_FILE,
            exported=Path(model.path) / GRAPH_FILE,
            sets=Path(model.path) / SETS_FILE,
            num_threads=num_threads,
            evaluation=Path(evaluation.path),
        )
        roc = evaluated.curves.roc.micro
        shown = roc_and_confusion_matrix
        shown.log_confusion_matrix(
            list(evaluated.classes), [list(row) for row in evaluated.confusion_matrix]
        )
        shown.log_roc_curve(list(roc.x), list(roc.y), list(roc.thresholds))
        write_metrics(shown.path, shown.metadata)
        evaluation.metadata.update(evaluated.summary)
        run.log_metrics(evaluation.metadata)
        run.set_tags(determinism.describe())
