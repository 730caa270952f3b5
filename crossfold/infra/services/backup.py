"""Back up and restore the services: MLflow's database and the buckets of the object store."""

from pathlib import Path

from crossfold.errors import UserError
from crossfold.infra.backups import mlflow_database
from crossfold.infra.backups.backup_folder import (
    BUCKETS,
    check_target,
    describe_contents,
    describe_size,
    load_backup,
    read_backup,
    save_backup,
)
from crossfold.infra.messages import Say

from .compose import prepare, read_services, start


def backup(root: Path, folder: Path, say: Say) -> None:
    """Write a backup of the services of `root` to a new folder, while they work.

    Raises:
        UserError: the folder exists, or the services have no data or cannot be read.
    """
    project = read_services(root, say)
    mlflow_database.known_revisions(project)
    manifest = save_backup(project, folder, BUCKETS, say)
    say(f"{folder} is written: {describe_size(manifest)}")


def restore(root: Path, folder: Path, say: Say, *, replace: bool) -> None:
    """Restore a backup to the services of `root`, and start them.

    Raises:
        UserError: the backup is damaged, too new or a cluster's, MLflow has runs or models and
            `replace` is false, or a service does not start.
    """
    manifest = read_backup(folder)
    if manifest.kubeflow:
        raise UserError(
            f"{folder} is a cluster's backup, with Kubeflow's runs: restore it with "
            "`crossfold cluster restore`"
        )
    project = prepare(root, say)
    check_target(project, manifest, "crossfold restore", replace=replace)
    if project.container("mlflow"):
        project.call("stop", "mlflow")
    try:
        load_backup(project, folder, manifest, say)
    finally:
        start(project)
    say(f"restored {describe_contents(manifest)}; MLflow runs")
