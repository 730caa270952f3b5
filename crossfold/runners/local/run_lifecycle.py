"""Run the pipeline on this machine: check, connect to MLflow, run the steps, write the reports."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from crossfold.diagnosis.findings import Diagnosis
from crossfold.errors import UserError
from crossfold.records import Evaluation, Leaderboard, Registration
from crossfold.runners.display import Display
from crossfold.runners.failures import StepError, signals_interrupt
from crossfold.runners.lineage import lineage
from crossfold.runners.local.backends.base import Backend
from crossfold.runners.outcome import Outcome
from crossfold.runners.pre_run_checks import check_model, check_pointers, check_signing_key
from crossfold.settings import Settings
from crossfold.step.full_disk import explain_full_disk
from crossfold.tracking import names
from crossfold.versioning import dvc
from pipelines.arguments import arguments

from . import mlflow_run
from .compiled import compiled_pipeline
from .leftovers import end_leftovers
from .mlflow_process import MlflowProcess, mlflow_process
from .mlflow_store import tracking_environment
from .reuse import fingerprint, request
from .run_folders import (
    FAILED,
    FINISHED,
    HOME,
    INTERRUPTED,
    RUNNING,
    Run,
    all_runs,
    choose_run,
    only_run,
)
from .session import Session, run_pipeline

_PATIENCE = 5  # seconds for what is still being written to MLflow when a run fails
_CONTINUES = "interrupted; the next `crossfold run` continues here"


def run_here(
    root: Path,
    settings: Settings,
    display: Display,
    connect_backend: Callable[[Path, Settings], Backend],
    *,
    caching: bool,
    record: bool,
) -> Outcome:
    """Run the pipeline on this machine; see `Runner`.

    An unfinished run with the same inputs is continued: no finished step is repeated. After a
    signal, no process or container is left.
    """
    _refuse_temporary_workspace(root)
    home = root / HOME
    home.mkdir(exist_ok=True)
    with only_run(home):
        # Before anything else, so that a killed run's leftovers do not compete with this run.
        for left in all_runs(home):
            end_leftovers(left)
        check_signing_key()
        check_pointers(root)
        dvc.ensure_pushed(root, settings.data.remote)
        model = check_model(root, settings)
        backend = connect_backend(root, settings)
        origin = lineage(root, settings, backend.name)
        inputs = arguments(settings, root, origin, model.geometries)
        os.environ.update(tracking_environment(root, settings))
        same = fingerprint(inputs, settings, backend.name, backend.image)
        asked = request(root, settings, backend.name)
        with _full_disk_explained(home), mlflow_process() as in_mlflow:
            in_mlflow(mlflow_run.check_store)
            run = choose_run(home, same, caching=caching)
            run.request = asked
            _end_killed_runs(home, run, in_mlflow)
            for note in model.notes:
                display.warn(note)
            outcome = _run(
                root,
                run,
                settings,
                inputs,
                display,
                backend,
                in_mlflow,
                caching=caching,
                record=record,
            )
            in_mlflow(mlflow_run.remember_champion, root, settings.tracking.model_name)
        return replace(outcome, notes=model.notes)


def _end_killed_runs(home: Path, present: Run, in_mlflow: MlflowProcess) -> None:
    """Record, here and in MLflow, the end of killed runs, which could not do so themselves."""
    for run in all_runs(home):
        if run.status == RUNNING and run.id != present.id:
            run.end(INTERRUPTED)
            in_mlflow(mlflow_run.end, run.id, [], "KILLED")


@contextmanager
def _full_disk_explained(home: Path) -> Iterator[None]:
    """Turn a full disk into a StepError with advice."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if message := explain_full_disk(error, home):
            raise StepError(message) from None
        raise


def _run(
    root: Path,
    run: Run,
    settings: Settings,
    inputs: dict[str, Any],
    display: Display,
    backend: Backend,
    in_mlflow: MlflowProcess,
    *,
    caching: bool,
    record: bool,
) -> Outcome:
    started = datetime.fromtimestamp(run.started)
    name = names.run_name(started, *(backbone.architecture for backbone in settings.backbones))
    in_mlflow(mlflow_run.begin, run.id, name, backend.name.value)
    package = compiled_pipeline(run, inputs, backend.image, settings.resources)
    pipeline_root = root / HOME / "pipeline"
    session = Session(
        run,
        display,
        lambda reused: in_mlflow.later(mlflow_run.record_reused, run.id, reused),
    )
    try:
        with (
            display,
            signals_interrupt(_CONTINUES, session.stop),
            backend.kubeflow_runner(session, package, pipeline_root) as runner,
        ):
            run_pipeline(
                package,
                inputs,
                session,
                runner,
                pipeline_root=pipeline_root,
                cache_root=root / HOME / "cache" / backend.cache_name if caching else None,
            )
        outcome = _outcome(run, session.num_reused)
        outcome.write_reports(root, record=record)
    except BaseException as error:
        session.stop()
        # A signal, or the end of our output's reader; anything else is an Exception.
        interrupted = not isinstance(error, Exception)
        run.end(INTERRUPTED if interrupted else FAILED)
        ended: Literal["KILLED", "FAILED"] = "KILLED" if interrupted else "FAILED"
        with suppress(Exception):  # the first error says what is wrong
            if in_mlflow.settled(_PATIENCE):
                in_mlflow(mlflow_run.end_at_best_effort, run.id, session.take_reused(), ended)
        raise
    finally:
        shutil.rmtree(run.folder / "tmp", ignore_errors=True)
    in_mlflow(mlflow_run.end, run.id, session.take_reused(), "FINISHED")
    run.end(FINISHED)
    return outcome


def _outcome(run: Run, num_reused: int) -> Outcome:
    registered = run.outputs("register_model")
    return Outcome(
        leaderboard=Leaderboard.read(run.outputs("aggregate_cv") / "leaderboard"),
        evaluation=Evaluation.read(run.outputs("evaluate_test") / "evaluation"),
        diagnosis=Diagnosis.read(run.outputs("diagnose_data") / "diagnosis"),
        registration=Registration.read(registered / "registration"),
        report_html=(registered / "report").read_text(encoding="utf-8"),
        num_steps=len(run.steps),
        num_reused=num_reused,
        places=("MLflow:   crossfold mlflow-ui",),
    )


def _refuse_temporary_workspace(root: Path) -> None:
    if {".dvc", "tmp"} <= set(root.parts):
        raise UserError(
            "this folder is a temporary copy by DVC (dvc exp run --temp or --queue). It lacks the "
            "folder remote and runs/, so no step would be reused, and the model would be "
            "registered in the copy. Run `dvc exp run` without these options"
        )
