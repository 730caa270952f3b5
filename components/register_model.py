"""Step: register the model in MLflow, and decide whether it becomes champion."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Markdown, Metrics, Model, Output


@dsl.component(base_image="crossfold-train", install_kfp_package=False)
def register_model(
    examples: Input[Dataset],
    model: Input[Model],
    leaderboard: Input[Metrics],
    evaluation: Input[Metrics],
    diagnosis: Input[Metrics],
    model_name: str,
    min_macro_f1: float,
    margin: float,
    signature_key: str,
    lineage: dict,
    models_pointer: str,
    num_threads: int,
    registration: Output[Metrics],
    report: Output[HTML],
    summary: Output[Markdown],
) -> None:
    """Register the model, and make it champion if the gate passes it.

    Args:
        examples: Table of images; the present champion is scored on its test split.
        model: Folder with the whole network.
        leaderboard: Results of cross-validation.
        evaluation: Results on the test split.
        diagnosis: Findings about images and scores, for the report.
        model_name: Name of the registered model.
        min_macro_f1: Lowest macro F1 on the test split with which a model may become champion.
        margin: How much macro F1 a challenger may lose and still count as "not worse".
        signature_key: The public key, in PEM, without whose signature no version becomes champion;
            as JSON, null for none.
        lineage: Origin of the model: settings, commit, images, runner.
        models_pointer: The text of models.dvc.
        num_threads: Processor threads.
        registration: Version, aliases, the gate's decision, its reason and evidence. Kubeflow
            shows the version's number, whether it is champion, and the gate's figures.
        report: Report of the run, also in its MLflow run.
        summary: Version and decision in short, with links to MLflow's pages.
    """
    from pathlib import Path

    from crossfold.step.runtime import step

    with step("register_model", registration.path) as run:
        from crossfold.network import GRAPH_FILE, NETWORK_FILE, SETS_FILE
        from crossfold.registry import gate, register
        from crossfold.tracking import run_tree

        registered = register.register_model(
            examples=Path(examples.path),
            model=Path(model.path) / NETWORK_FILE,
            exported=Path(model.path) / GRAPH_FILE,
            sets=Path(model.path) / SETS_FILE,
            leaderboard=Path(leaderboard.path),
            evaluation=Path(evaluation.path),
            diagnosis=Path(diagnosis.path),
            model_name=model_name,
            rule=gate.read_rule(min_macro_f1, margin, signature_key),
            lineage=lineage,
            models_pointer=models_pointer,
            computed=model.metadata,
            num_threads=num_threads,
            registration=Path(registration.path),
            report_page=Path(report.path),
            summary=Path(summary.path),
            run=run,
        )
        registration.log_metric("version", int(registered.version))
        registration.log_metric("champion", int("champion" in registered.aliases))
        registration.metadata.update(register.gate_metrics(registered))
        run.log_metrics(registration.metadata)
        run_tree.name_cached_iterations(run.parent())
