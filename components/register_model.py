"""The step that puts the model into MLflow's registry and decides whether it becomes champion."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Markdown, Metrics, Model, Output


@dsl.component(base_image="crossfold-train", install_kfp_package=False)
def register_model(
    examples: Input[Dataset],
    model: Input[Model],
    leaderboard: Input[Metrics],
    evaluation: Input[Metrics],
    model_name: str,
    min_macro_f1: float,
    margin: float,
    lineage: dict,
    models_pointer: str,
    num_threads: int,
    registration: Output[Metrics],
    report: Output[HTML],
    summary: Output[Markdown],
) -> None:
    """Register the model; alias `champion` only if the gate lets it through.

    Args:
        examples: The table of images; a present champion is scored on its test split.
        model: The folder with the whole network.
        leaderboard: The results of cross-validation.
        evaluation: The results on the test split.
        model_name: The registered model's name.
        min_macro_f1: The floor below which no model becomes champion.
        margin: The loss of macro F1 against the champion that counts as none.
        lineage: Where the model comes from: settings, commit, images, runner.
        models_pointer: The text of models.dvc.
        num_threads: Processor threads.
        registration: Version, aliases, the gate's decision, its reason and evidence; Kubeflow
            shows the version's number, whether it is champion, and the gate's figures.
        report: The report of the run, which its run in MLflow has too.
        summary: Version and decision in short, with links to MLflow's pages.
    """
    from pathlib import Path

    from crossfold.step.runtime import step

    with step("register_model", registration.path) as run:
        from crossfold.predict.model import GRAPH_FILE, NETWORK_FILE
        from crossfold.registry import gate, register
        from crossfold.tracking import runs

        registered = register.register_model(
            examples=Path(examples.path),
            model=Path(model.path) / NETWORK_FILE,
            exported=Path(model.path) / GRAPH_FILE,
            leaderboard=Path(leaderboard.path),
            evaluation=Path(evaluation.path),
            model_name=model_name,
            rule=gate.Rule(min_macro_f1, margin),
            lineage=lineage,
            models_pointer=models_pointer,
            computed=model.metadata,
            num_threads=num_threads,
            registration=Path(registration.path),
            report_page=Path(report.path),
            summary=Path(summary.path),
            run=run,
        )
        registration.log_metric("version", int(registered["version"]))
        registration.log_metric("champion", int("champion" in registered["aliases"]))
        registration.metadata.update(register.figures(registered))
        run.log_metrics(registration.metadata)
        runs.name_cached_iterations(run.parent())
