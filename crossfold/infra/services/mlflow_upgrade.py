"""Upgrade MLflow's database before a newer MLflow starts: stop, copy, migrate; undo a failure."""

import time
from pathlib import Path

from crossfold.errors import UserError
from crossfold.infra import shell
from crossfold.infra.backups import mlflow_database
from crossfold.infra.backups.backup_folder import DATABASE, save_backup
from crossfold.infra.image_tags import MLFLOW, image_name
from crossfold.infra.messages import Say

from .compose_project import ComposeProject

BACKUPS = "backups"


class _UnrestoredError(UserError):
    """The database is neither upgraded nor as before."""


def upgrade_database(project: ComposeProject, say: Say) -> None:
    """Bring MLflow's database to the newest revision of its image, if it has an older one.

    MLflow demands that nothing writes to the database meanwhile, so the server is stopped. A backup
    of the database is kept. If the migration fails, it is restored, and the earlier server starts
    again.

    Raises:
        UserError: the migration failed, or the database is newer than MLflow's image.
    """
    if not _has_data(project) or _runs_this_image(project) or not _is_older(project):
        return
    say("MLflow's database has an older revision: stopping MLflow to upgrade it")
    server = project.container("mlflow")
    if server:
        project.call("stop", "mlflow")
    try:
        _migrate(project, say)
    except _UnrestoredError:
        raise
    except BaseException as error:  # an interrupt and a full disk too
        if server:
            project.call("start", "mlflow")
        if not isinstance(error, UserError):
            raise
        state = "the earlier MLflow runs again" if server else "MLflow is not running"
        raise UserError(
            f"MLflow's database could not be upgraded. It is as before, and {state}. Use the "
            f"earlier version of Crossfold until the cause is removed. {error}"
        ) from error
    say("MLflow's database is upgraded")


def _migrate(project: ComposeProject, say: Say) -> None:
    """Back up the database, then bring it to the image's revision; undo a failure."""
    folder = project.root / BACKUPS / time.strftime("before-upgrade-%Y%m%d-%H%M%S", time.gmtime())
    save_backup(project, folder, (), say)
    say(f"upgrading the database; a backup of it is in {folder.relative_to(project.root)}")
    try:
        project.call_quietly("run", "--rm", "-T", "mlflow", "python3", "start.py", "prepare")
    except BaseException:
        _restore(project, folder)
        raise


def _restore(project: ComposeProject, folder: Path) -> None:
    try:
        mlflow_database.load(project, folder / DATABASE)
    except BaseException as error:
        raise _UnrestoredError(
            "MLflow's database could be neither upgraded nor restored, so MLflow is stopped. "
            f"Remove the cause, then run `crossfold restore --replace {folder}`. {error}"
        ) from error


def _has_data(project: ComposeProject) -> bool:
    label = f"label=com.docker.compose.project={project.environment['COMPOSE_PROJECT_NAME']}"
    return bool(shell.output("docker", "volume", "ls", "--quiet", "--filter", label))


def _runs_this_image(project: ComposeProject) -> bool:
    server = project.container("mlflow")
    layout = "--format={{.State.Running}} {{.Config.Image}}"
    return bool(server) and (
        shell.output("docker", "inspect", layout, server) == f"true {image_name(MLFLOW)}"
    )


def _is_older(project: ComposeProject) -> bool:
    """Tell whether a part of the database has an older revision than the image's newest.

    Raises:
        UserError: the image does not know a revision.
    """
    older = False
    for table, known in mlflow_database.known_revisions(project).items():
        present = mlflow_database.present_revision(project, table)
        if present is not None and present not in known:
            raise UserError(
                f"MLflow's database has the revision {present}, which this version's MLflow does "
                "not know: a newer MLflow wrote it. Use that version of Crossfold, or restore a "
                "backup from before the upgrade: crossfold restore --replace FOLDER"
            )
        older |= present not in (None, known[0])
    return older
