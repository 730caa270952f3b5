"""Commands for the pipeline: run, schedule, compile and clean."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from crossfold.errors import UserError
from crossfold.runners.base import RunnerName, create_runner

from .console import PARAMS, Changes, Context, Registry, console, require_output_file


def run(
    on: Annotated[RunnerName, typer.Option(help="Where the steps run.")] = RunnerName.LOCAL,
    changes: Changes = None,
    cache: Annotated[bool, typer.Option(help="Reuse steps whose inputs are unchanged.")] = True,
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="Also update reports/metrics.json and reports/plots, as `dvc repro` does.",
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show the steps' full output.")
    ] = False,
    context: Context = None,
    registry: Registry = None,
) -> None:
    """Run the pipeline: fetch, extract, cross-validate, choose, train, evaluate, register."""
    from crossfold.settings import load_settings

    settings = load_settings(PARAMS, changes or ())  # before the slow imports: mistakes show early

    runner = create_runner(on, context=context, registry=registry)

    from crossfold.runners.display import Display

    display = Display(console, verbose=verbose)
    outcome = runner.run(Path.cwd(), settings, display, caching=cache, record=record)

    from .summary import show

    show(console, outcome)


def schedule(
    cron: Annotated[
        str, typer.Option(help="Start times in UTC, in cron syntax: '0 3 * * *' is 3:00 daily.")
    ],
    branch: Annotated[
        str, typer.Option(help="The branch whose current data.dvc and models.dvc each run uses.")
    ] = "main",
    repository: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="The git repository.", show_default="that of the remote origin"
        ),
    ] = None,
    changes: Changes = None,
    context: Context = None,
    registry: Registry = None,
) -> None:
    """Run the pipeline on Kubernetes on a schedule, each time with a branch's current data."""
    from crossfold.settings import load_settings

    settings = load_settings(PARAMS, changes or ())

    from crossfold.infra.cluster.kind import KIND_CONTEXT
    from crossfold.runners.display import Display
    from crossfold.runners.kubeflow import schedule

    schedule.schedule(
        Path.cwd(),
        settings,
        Display(console, verbose=False),
        cron=cron,
        branch=branch,
        repository=repository,
        context=context or KIND_CONTEXT,
        registry=registry,
    )


def compile_(
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")] = Path(
        "pipeline.yaml"
    ),
    changes: Changes = None,
) -> None:
    """Write the pipeline as YAML that any Kubeflow Pipelines can run."""
    from crossfold.runners.lineage import lineage
    from crossfold.runners.pre_run_checks import check_model
    from crossfold.settings import load_settings
    from pipelines.arguments import arguments
    from pipelines.compilation import compile_pipeline

    if output.suffix not in (".yaml", ".yml"):
        raise UserError(f"--output {output}: the name must end in .yaml or .yml")
    require_output_file("--output", output)
    settings = load_settings(PARAMS, changes or ())
    root = Path.cwd()
    model = check_model(root, settings)
    origin = lineage(root, settings, RunnerName.CLUSTER)
    inputs = arguments(settings, root, origin, model.geometries)
    compile_pipeline(output, inputs, resources=settings.resources)
    console.print(f"{escape(str(output))} is written", soft_wrap=True)


def clean(
    keep: Annotated[int, typer.Option(min=1, help="How many finished runs to keep.")] = 3,
) -> None:
    """Delete old runs' files under runs/, except files that MLflow or a kept run uses."""
    from crossfold.runners.local.old_runs import clean_runs

    console.print(clean_runs(Path.cwd(), keep=keep), soft_wrap=True)
