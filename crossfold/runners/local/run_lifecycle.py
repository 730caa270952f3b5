"""Run the pipeline on this machine: check, connect to MLflow, run the steps, write the reports."""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from mlflow.exceptions import MlflowException

from crossfold.errors import UserError
from crossfold.predict import local_version
from crossfold.records import Evaluation, Leaderboard, Registration
from crossfold.registry import aliases
from crossfold.runners.display import Display
from crossfold.runners.failures import StepError, signals_interrupt
from crossfold.runners.lineage import lineage
from crossfold.runners.local.backends.base import Backend
from crossfold.runners.outcome import Outcome
from crossfold.runners.pre_run_checks import check_model, check_pointers
from crossfold.settings import Settings
from crossfold.tracking import names, run_tree, store
from crossfold.versioning import dvc
from pipelines.arguments import arguments

from .compiled import compiled_pipeline
from .leftovers import end_leftovers
from .mlflow_store import tracking_environment
from .reuse import fingerprint
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

_logger = logging.getLogger(__name__)
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
        check_pointers(root)
        dvc.ensure_pushed(root, settings.data.remote)
        model = check_model(root, settings)
        backend = connect_backend(root, settings)
        origin = lineage(root, settings, backend.name)
        inputs = arguments(settings, root, origin, model.geometries)
        os.environ.update(tracking_environment(root, settings))
        store.connect()
        run = choose_run(
            home, fingerprint(inputs, settings, backend.name, backend.image), caching=caching
        )
        _end_killed_runs(home, run)
        for note in model.notes:
            display.warn(note)
        with _outages_explained(home):
            outcome = _run(
                root, run, settings, inputs, display, backend, caching=caching, record=record
            )
            _remember_champion(root, settings)
        return replace(outcome, notes=model.notes)


def _remember_champion(root: Path, settings: Settings) -> None:
    """Save the next `crossfold predict` the import of MLflow.

    The run has finished: whatever fails here, for example a store that another program locks, must
    not end it as an error.
    """
    name = settings.tracking.model_name
    try:
        client = store.connect()
        lookup = local_version.begin(root, f"{name}@{aliases.CHAMPION}")
        if lookup and (champion := aliases.find_champion(client, name)):
            local_version.remember(lookup, client, champion)
    except Exception as error:
        _logger.warning(
            "the champion could not be remembered for the next `crossfold predict`: %s", error
        )


def _end_killed_runs(home: Path, present: Run) -> None:
    """Record, here and in MLflow, the end of killed runs, which could not do so themselves."""
    for run in all_runs(home):
        if run.status == RUNNING and run.id != present.id:
            run.end(INTERRUPTED)
            run_tree.end_parent(run.id, "KILLED")


@contextmanager
def _outages_explained(home: Path) -> Iterator[None]:
    """Turn a lost MLflow server, or a full disk, into a StepError with advice."""
    try:
        yield
    except MlflowException as error:
        if lost := store.lost_server(error):
            raise StepError(lost) from None
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StepError(
            f"{error.strerror}: free space on the disk of {home}, then run again. No finished "
            "step is repeated"
        ) from None


def _run(
    root: Path,
    run: Run,
    settings: Settings,
    inputs: dict[str, Any],
    display: Display,
    backend: Backend,
    *,
    caching: bool,
    record: bool,
) -> Outcome:
    started = datetime.fromtimestamp(run.started)
    run_tree.parent_run(
        run.id,
        name=names.run_name(started, *(backbone.architecture for backbone in settings.backbones)),
        tags={"crossfold.runner": backend.name.value},
    )
    package = compiled_pipeline(run, inputs, backend.image, settings.resources)
    pipeline_root = root / HOME / "pipeline"
    session = Session(run, display)
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
        outcome = _outcome(run, len(session.reused))
        outcome.write_reports(root, record=record)
    except BaseException as error:
        session.stop()
        # A signal, or the end of our output's reader; anything else is an Exception.
        interrupted = not isinstance(error, Exception)
        run.end(INTERRUPTED if interrupted else FAILED)
        with store.best_effort():
            _log_end(session, "KILLED" if interrupted else "FAILED")
        raise
    finally:
        shutil.rmtree(run.folder / "tmp", ignore_errors=True)
    _log_end(session, "FINISHED")
    run.end(FINISHED)
    return outcome


def _log_end(session: Session, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
    for record in session.reused:
        run_tree.log_cached_step(
            session.run.id,
            name=record.step,
            iteration=record.iteration,
            source_run_id=record.mlflow_run_id,
        )
    run_tree.end_parent(session.run.id, status)


def _outcome(run: Run, num_reused: int) -> Outcome:
    registered = run.outputs("register_model")
    return Outcome(
        leaderboard=Leaderboard.read(run.outputs("aggregate_cv") / "leaderboard"),
        evaluation=Evaluation.read(run.outputs("evaluate_test") / "evaluation"),
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
