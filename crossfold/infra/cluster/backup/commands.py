"""Back up and restore a cluster: the databases of MLflow and Kubeflow, and the buckets."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crossfold.errors import UserError
from crossfold.infra.backups import backup_folder, kubeflow_database
from crossfold.infra.backups.backup_folder import (
    Manifest,
    check_target,
    describe_contents,
    describe_size,
    load_backup,
    read_backup,
    require_new,
    save_backup,
)
from crossfold.infra.backups.containers import Containers
from crossfold.infra.backups.kubeflow_database import UnrestoredError
from crossfold.infra.cluster.addresses import KUBEFLOW
from crossfold.infra.cluster.checks import check_kubectl
from crossfold.infra.cluster.kubectl import Cluster
from crossfold.infra.cluster.readiness import wait_until_ready
from crossfold.infra.messages import Say

from .containers import started_containers
from .writers import (
    is_half_restored,
    refuse_half_restored,
    refuse_running_steps,
    start_writers,
    stop_writers,
)

BUCKETS = (*backup_folder.BUCKETS, "pipelines")
_RESTORE = "crossfold cluster restore"


def backup(context: str, folder: Path, say: Say) -> None:
    """Write a backup of a cluster to a new folder, while its services work.

    Raises:
        UserError: the folder exists, a restore did not finish, or a store has no data or cannot be
            read.
    """
    require_new(folder)
    cluster = _answering_cluster(context)
    refuse_half_restored(cluster)
    with started_containers(cluster) as containers:
        databases = kubeflow_database.present_databases(containers)
        if not databases:
            raise UserError("Kubeflow has no data yet: run `crossfold cluster up` first")
        manifest = save_backup(containers, folder, BUCKETS, say, kubeflow=databases)
    say(f"{folder} is written: {describe_size(manifest)}")


def restore(context: str, folder: Path, say: Say, *, replace: bool) -> None:
    """Restore a backup to a cluster that is up, with MLflow and Kubeflow stopped meanwhile.

    Raises:
        UserError: the backup is damaged or too new, a pipeline runs, there are runs or models and
            `replace` is false, or a service does not stop or start.
    """
    manifest = read_backup(folder)
    cluster = _answering_cluster(context)
    with started_containers(cluster) as containers:
        check_target(containers, manifest, _RESTORE, replace=replace)
        _check_kubeflow(containers, manifest, replace=replace)
        refuse_running_steps(cluster)
        with _stopped_writers(cluster, say):
            refuse_running_steps(cluster)  # Kubeflow could start one until it was stopped
            load_backup(containers, folder, manifest, say)
    wait_until_ready(cluster, ("mlflow", KUBEFLOW), say)
    say(f"restored {describe_contents(manifest)}; all services run")


def _answering_cluster(context: str) -> Cluster:
    check_kubectl()
    cluster = Cluster(context)
    cluster.check_answers()
    return cluster


def _check_kubeflow(containers: Containers, manifest: Manifest, *, replace: bool) -> None:
    if manifest.kubeflow and not replace and kubeflow_database.has_runs(containers):
        raise UserError(
            "Kubeflow has runs, which the backup would replace. If you want that: "
            f"{_RESTORE} --replace"
        )


@contextmanager
def _stopped_writers(cluster: Cluster, say: Say) -> Iterator[None]:
    """Stop the writers for the block.

    They stay stopped on `UnrestoredError`, and on every error if an earlier restore did not finish.
    """
    was_half_restored = is_half_restored(cluster)
    try:
        stop_writers(cluster, say)
        yield
    except UnrestoredError:
        raise
    except BaseException:  # an interrupt too
        if not was_half_restored:
            with suppress(UserError):  # a lost connection; the block's error matters more
                start_writers(cluster)
        raise
    start_writers(cluster)
