"""A run on this machine from start to end: checks, tracking, the steps, what it leaves."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout
from kfp import local
from mlflow.exceptions import MlflowException

from crossfold.data import dvc, remotes
from crossfold.data.layout import find_misnamed
from crossfold.errors import UserError
from crossfold.infra.images import DATA, TRAIN, code_name, image_name
from crossfold.records import Evaluation, Leaderboard, Registration
from crossfold.runners.display import Display
from crossfold.runners.failures import StepError, signals_interrupt
from crossfold.runners.lineage import lineage
from crossfold.runners.model_check import check_model
from crossfold.runners.outcome import Outcome
from crossfold.settings import Settings
from crossfold.tracking import names, runs, store
from pipelines.arguments import arguments
from pipelines.compilation import compile_pipeline

from .mlflow_store import HOME as HOME
from .mlflow_store import served
from .mlflow_store import tracking_environment as tracking_environment
from .processes import subprocess_runner
from .runs import FAILED, FINISHED, INTERRUPTED, RUNNING, Run, all_runs, new_run
from .session import Session, run_pipeline

if TYPE_CHECKING:
    from docker import DockerClient

# Docker's client is imported only by those who run in containers.

LOCAL = "local"
DOCKER = "docker"
_GOES_ON = "interrupted; `crossfold run` goes on where it stopped"


def run_here(
    root: Path, settings: Settings, display: Display, *, on: str, caching: bool, record: bool
) -> Outcome:
    """Run the pipeline on this machine for the data and weights that `root`'s pointers name.

    The steps are processes (LOCAL) or containers (DOCKER). An unfinished run with the same inputs
    is continued: no finished step is repeated. With `record`, what git and DVC compare is written.

    Raises:
        UserError: something stands in the way; nothing has been started.
        StepError: a step failed.
        Interrupted: a signal ended the run; no process and no container is left.
    """
    _refuse_temporary_workspace(root)
    home = root / HOME
    home.mkdir(exist_ok=True)
    with only_run(home):
        # Before anything else, so that what a killed run left behind does not compete with us.
        for left in all_runs(home):
            end_steps(left)
        check_pointers(root)
        dvc.ensure_pushed(root, settings.data.remote)
        notes = check_model(root, settings)
        docker = _docker(root, settings) if on == DOCKER else None
        inputs = arguments(settings, root, lineage(root, settings, on))
        os.environ.update(tracking_environment(root, settings))
        store.connect()
        run = _choose_run(home, _fingerprint(inputs, on), caching=caching)
        for left in all_runs(home):
            if left.status == RUNNING and left.id != run.id:
                left.end(INTERRUPTED)
                runs.end_parent(left.id, "KILLED")
        for note in notes:
            display.warn(note)
        try:
            outcome = _run(
                root, run, settings, inputs, display, docker, caching=caching, record=record
            )
            return replace(outcome, notes=notes)
        except MlflowException as error:
            if lost := store.lost_server(error):
                raise StepError(lost) from None
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StepError(
                f"{error.strerror}: free some on the disk of {home}, then run again: no finished "
                "step is repeated"
            ) from None


def end_steps(run: Run) -> None:
    """End the processes and containers that a killed run has left."""
    run.end_processes()
    if run.containers:
        from .containers import remove_left

        remove_left(run)


@dataclass(frozen=True)
class _Docker:
    """What a run in containers needs of this machine; `remote` are variables for fetch_data."""

    engine: "DockerClient"
    remote: dict[str, str]


def _docker(root: Path, settings: Settings) -> _Docker:
    from .containers import engine

    return _Docker(
        engine([image_name(DATA), image_name(TRAIN)]),
        remotes.remote_environment(root, settings.data.remote),
    )


def _run(
    root: Path,
    run: Run,
    settings: Settings,
    inputs: dict[str, Any],
    display: Display,
    docker: _Docker | None,
    *,
    caching: bool,
    record: bool,
) -> Outcome:
    started = datetime.fromtimestamp(run.started)
    on = DOCKER if docker else LOCAL
    runs.parent_run(
        run.id,
        name=names.run_name(started, settings.model.architecture),
        tags={"crossfold.runner": on},
    )
    package = run.folder / "pipeline.yaml"
    compile_pipeline(
        package,
        inputs,
        num_shards=settings.extraction.shards,
        retries=False,
        image=code_name if on == LOCAL else image_name,
    )
    session = Session(run, display)
    try:
        with (
            display,
            signals_interrupt(_GOES_ON, session.stop),
            _runner(root, session, package, docker) as runner,
        ):
            run_pipeline(
                package,
                inputs,
                session,
                runner,
                pipeline_root=root / HOME / "pipeline",
                cache_root=_cache_root(root, on) if caching else None,
            )
        outcome = _outcome(run, len(session.reused))
        outcome.write_reports(root, record=record)
    except BaseException as error:
        session.stop()
        # A signal, or the end of whoever read our output; anything else is an Exception.
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


@contextmanager
def _runner(
    root: Path, session: Session, package: Path, docker: _Docker | None
) -> Iterator[local.SubprocessRunner | local.DockerRunner]:
    """Yield Kubeflow's runner for the session, with what its steps need around them."""
    if docker is None:
        yield subprocess_runner(session, _process_environment(session.run))
        return
    from .containers import Surroundings, docker_runner, prepare_root

    prepare_root(root / HOME / "pipeline")
    with _tracking_for_containers(session.run) as environment:
        surroundings = Surroundings(
            environment,
            secrets={"fetch_data": docker.remote},
            folders={"fetch_data": remotes.remote_folders(docker.remote)},
        )
        yield docker_runner(session, docker.engine, package, surroundings)


@contextmanager
def _tracking_for_containers(run: Run) -> Iterator[dict[str, str]]:
    """Yield the variables that every container gets; a store of this machine is served."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    environment = {
        **{name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")},
        **_step_variables(run),
    }
    environment.pop("MLFLOW_RUN_ID", None)
    if uri.startswith(store.SQLITE):
        with served(uri, run) as address:
            yield environment | address
    else:
        yield environment


def _cache_root(root: Path, on: str) -> Path:
    """Return the cache of the runs on this runner; an image's name holds for its containers only.

    A process depends on the build of torch that is installed here.
    """
    return root / HOME / "cache" / (on if on == DOCKER else f"{on}-torch-{version('torch')}")


def _log_end(session: Session, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
    for record in session.reused:
        runs.log_cached_step(
            session.run.id,
            name=record.step,
            iteration=record.iteration,
            source_run_id=record.mlflow_run_id,
        )
    runs.end_parent(session.run.id, status)


def _outcome(run: Run, num_reused: int) -> Outcome:
    registered = run.outputs("register_model")
    return Outcome(
        leaderboard=Leaderboard.read(run.outputs("aggregate_cv") / "leaderboard"),
        evaluation=Evaluation.read(run.outputs("evaluate_test") / "evaluation"),
        registration=Registration.read(registered / "registration"),
        report_html=(registered / "report").read_text(encoding="utf-8"),
        num_steps=len(run.steps),
        num_reused=num_reused,
        places=("MLflow:   make mlflow-ui",),
    )


def _refuse_temporary_workspace(root: Path) -> None:
    if {".dvc", "tmp"} <= set(root.parts):
        raise UserError(
            "this is a temporary copy that DVC made (dvc exp run --temp or --queue): it has "
            "neither the folder remote nor runs/, so nothing would be reused or registered where "
            "you look for it. Run `dvc exp run` without these options."
        )


@contextmanager
def only_run(home: Path) -> Iterator[None]:
    """Hold the lock on `home`: two runs at once would share its stores.

    Raises:
        UserError: another run holds it.
    """
    lock = FileLock(home / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another run uses {home}: wait for it to end, or stop it (Ctrl-C in its terminal)"
        ) from None
    try:
        yield
    finally:
        lock.release()


def check_pointers(root: Path) -> None:
    """Refuse a project without pointers, or with folders that have changed since `dvc add`."""
    for name in ("data", "models"):
        if not (root / f"{name}.dvc").exists():
            raise UserError(
                f"{name}.dvc is not there: put files under {name}/ and `dvc add {name}`"
            )
    try:
        changed = dvc.changed_since_add(root)
    except UnicodeEncodeError:
        found = filter(None, (find_misnamed(root / name) for name in dvc.FOLDERS))
        raise UserError("\n\n".join(map(str, found))) from None
    if changed:
        raise UserError(
            f"{' and '.join(changed)} changed since `dvc add`: run `dvc add {' '.join(changed)}` "
            f"to use the files as they are, or `dvc checkout` to return to those that were added"
        )


def _fingerprint(inputs: Mapping[str, Any], on: str) -> str:
    """Return a hash of all that decides a run's result, and of its settings.

    The settings are logged to the run in MLflow, which takes no other value of one later.
    """
    decisive = {name: value for name, value in inputs.items() if name != "lineage"}
    settings = inputs["lineage"]["settings"]
    name = code_name if on == LOCAL else image_name
    content = [decisive, settings, on, name(DATA), name(TRAIN)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _choose_run(home: Path, fingerprint: str, *, caching: bool) -> Run:
    """Return the last run if it has the same inputs and has not finished, else a new one."""
    last = all_runs(home)[-1:]
    if caching and last and last[0].status != FINISHED and last[0].fingerprint == fingerprint:
        last[0].end(RUNNING)
        return last[0]
    return new_run(home, fingerprint)


def _step_variables(run: Run) -> dict[str, str]:
    return {"CROSSFOLD_RUN_ID": run.id, "PYTHONUNBUFFERED": "1"}


def _process_environment(run: Run) -> dict[str, str]:
    temporary = run.folder / "tmp"
    temporary.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        **_step_variables(run),
        "TMPDIR": str(temporary),  # Kubeflow's launcher leaves a folder there for every step
    }
    # On Kubeflow it names the step's own run; here it would put every step into one.
    environment.pop("MLFLOW_RUN_ID", None)
    return environment
