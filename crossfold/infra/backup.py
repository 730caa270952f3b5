"""Back up and restore the services: MLflow's database and the buckets of the object store."""

from pathlib import Path

from crossfold.errors import UserError

from . import mlflow_database
from .backup_folder import BUCKETS, Manifest, load_backup, read_backup, save_backup
from .compose import prepare, read_services, start
from .compose_project import ComposeProject
from .messages import Say


def backup(root: Path, folder: Path, say: Say) -> None:
    """Write a backup of the services of `root` to a new folder, while they work.

    Raises:
        UserError: the folder exists, or the services have no data or cannot be read.
    """
    project = read_services(root, say)
    mlflow_database.known_revisions(project)
    manifest = save_backup(project, folder, BUCKETS, say)
    num_bytes = sum(file.num_bytes for file in manifest.files)
    say(f"{folder} is written: {num_bytes / 1e6:,.1f} MB in {len(manifest.files)} files")


def restore(root: Path, folder: Path, say: Say, *, replace: bool) -> None:
    """Restore a backup to the services of `root`, and start them.

    Raises:
        UserError: the backup is damaged or too new, MLflow has runs or models and `replace` is
            false, or a service does not start.
    """
    manifest = read_backup(folder)
    project = prepare(root, say)
    _check_target(project, manifest, replace=replace)
    if project.container("mlflow"):
        project.call("stop", "mlflow")
    try:
        load_backup(project, folder, manifest, say)
    finally:
        start(project)
    buckets = f" and the buckets {', '.join(manifest.buckets)}" if manifest.buckets else ""
    say(f"MLflow's database{buckets} are as of {manifest.created}; MLflow runs")


def _check_target(project: ComposeProject, manifest: Manifest, *, replace: bool) -> None:
    known = mlflow_database.known_revisions(project)
    if manifest.revision not in known[mlflow_database.REVISION]:
        raise UserError(
            f"the backup has MLflow's revision {manifest.revision}, which this version's MLflow "
            f"does not know: restore it with Crossfold {manifest.crossfold}"
        )
    if not replace and not mlflow_database.is_empty(project):
        raise UserError(
            "MLflow has runs or models, which the backup would replace. If you want that: "
            "crossfold restore --replace"
        )
