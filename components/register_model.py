"""The step that puts the model into MLflow's registry and decides whether it becomes champion."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Markdown, Metrics, Model, Output


@dsl.component(base_image="crossfold-train", install_kfp_package=False)
def register_model(
    examples: Input[Dataset],
    model: Input[Model],
    exported: Input[Model],
    leaderboard: Input[Artifact],
    evaluation: Input[Artifact],
    report_draft: Input[Artifact],
    model_name: str,
    min_macro_f1: float,
    margin: float,
    lineage: dict,
    models_pointer: str,
    num_threads: int,
    registration: Output[Artifact],
    report: Output[HTML],
    links: Output[Markdown],
    metrics: Output[Metrics],
) -> None:
    """Register the model; alias `champion` only if the gate lets it through.

    Args:
        examples: The table of images; a present champion is scored on its test split.
        model: The whole network.
        exported: The same as a graph, which is what predicts.
        leaderboard: What cross-validation said.
        evaluation: What the test split said.
        report_draft: The report without gate and lineage.
        model_name: The registered model's name.
        min_macro_f1: The floor below which no model becomes champion.
        margin: The loss of macro F1 against the champion that counts as none.
        lineage: Where the model comes from: settings, commit, images, runner.
        models_pointer: The text of models.dvc.
        num_threads: Processor threads.
        registration: Version, aliases, the gate's decision, its reason and evidence.
        report: The whole report, kept with the pipeline's run in MLflow too.
        links: The same for Kubeflow's page, with links to MLflow's.
        metrics: The version's number, whether it is champion, and the gate's figures.
    """
    from pathlib import Path

    from crossfold.step import step, write_metrics

    with step("register_model", registration.path) as run:
        from crossfold import gate, registry

        registered = registry.register_model(
            examples=Path(examples.path),
            model=Path(model.path),
            exported=Path(exported.path),
            leaderboard=Path(leaderboard.path),
            evaluation=Path(evaluation.path),
            report_draft=Path(report_draft.path),
            model_name=model_name,
            rule=gate.Rule(min_macro_f1, margin),
            lineage=lineage,
            models_pointer=models_pointer,
            computed=model.metadata,
            num_threads=num_threads,
            registration=Path(registration.path),
            report_page=Path(report.path),
            links=Path(links.path),
            run=run,
        )
        metrics.log_metric("version", int(registered["version"]))
        metrics.log_metric("champion", int("champion" in registered["aliases"]))
        metrics.metadata.update(registry.figures(registered))
        write_metrics(metrics.path, metrics.metadata)
        run.log_metrics(metrics.metadata)
