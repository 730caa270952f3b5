"""The folder of a backup: databases, buckets, and a manifest with their hashes."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from crossfold.errors import UserError
from crossfold.infra.messages import Say
from crossfold.records import Record
from crossfold.step.files import hash_file

from . import kubeflow_database, mlflow_database
from .containers import Containers
from .file_ends import require_tar_end

MANIFEST = "manifest.json"
DATABASE = "mlflow.sql"
KUBEFLOW = "kubeflow.sql"
BUCKETS = ("mlflow", "dvc")


class BackupFile(Record):
    """A file of a backup, with its size in bytes and its SHA-256."""

    name: str
    num_bytes: int
    sha256: str


class Manifest(Record):
    """A complete backup: when it began (ISO 8601, UTC), by which versions, and its files.

    `revision` is that of MLflow's tables. `buckets` may be empty, as before an upgrade. `kubeflow`
    are the databases of Kubeflow; the services in Docker have none.
    """

    created: str
    crossfold: str
    revision: str
    buckets: tuple[str, ...]
    kubeflow: tuple[str, ...] = ()
    files: tuple[BackupFile, ...]


def save_backup(
    containers: Containers,
    folder: Path,
    buckets: Sequence[str],
    say: Say,
    *,
    kubeflow: Sequence[str] = (),
) -> Manifest:
    """Write a backup of the running stores to a new folder, which exists only if complete.

    The databases come first: the files of each run and version that they have were in the buckets
    before, and what is written later is only more than is needed.

    Raises:
        UserError: the folder exists, or a store cannot be read to its end.
    """
    created = datetime.now(UTC).isoformat(timespec="seconds")
    with _new_folder(folder) as part:
        revision = mlflow_database.require_revision(containers)
        mlflow_database.dump(containers, part / DATABASE)
        if kubeflow:
            kubeflow_database.dump(containers, part / KUBEFLOW, kubeflow)
        for bucket in buckets:
            say(f"copying the bucket {bucket}")
            containers.save(part / _archive(bucket), *_objects("save", bucket))
            require_tar_end(part / _archive(bucket))
        manifest = Manifest(
            created=created,
            crossfold=version("crossfold"),
            revision=revision,
            buckets=tuple(buckets),
            kubeflow=tuple(kubeflow),
            files=tuple(_describe(path) for path in sorted(part.iterdir())),
        )
        manifest.write(part / MANIFEST)
    return manifest


def read_backup(folder: Path) -> Manifest:
    """Read a backup's manifest and check every file against it.

    Raises:
        UserError: the folder is no complete backup, or a file is damaged.
    """
    try:
        manifest = Manifest.read(folder / MANIFEST)
    except (OSError, ValidationError):
        raise UserError(
            f"{folder} is not a backup: name a folder that `crossfold backup` or "
            "`crossfold cluster backup` wrote"
        ) from None
    for file in manifest.files:
        path = folder / file.name
        if not path.is_file() or _describe(path) != file:
            raise UserError(f"{path} is missing or damaged, so nothing was restored")
    return manifest


def check_target(
    containers: Containers, manifest: Manifest, command: str, *, replace: bool
) -> None:
    """Check that a backup may be restored; `command` is the user's, for the message.

    Raises:
        UserError: the backup is too new, or MLflow has runs or models and `replace` is false.
    """
    known = mlflow_database.known_revisions(containers)
    if manifest.revision not in known[mlflow_database.REVISION]:
        raise UserError(
            f"the backup has MLflow's revision {manifest.revision}, which this version's MLflow "
            f"does not know: restore it with Crossfold {manifest.crossfold}"
        )
    if not replace and not mlflow_database.is_empty(containers):
        raise UserError(
            "MLflow has runs or models, which the backup would replace. If you want that: "
            f"{command} --replace"
        )


def load_backup(containers: Containers, folder: Path, manifest: Manifest, say: Say) -> None:
    """Put the buckets' objects back, then replace the databases. Their writers must be stopped.

    Objects that are not in the backup stay: no run refers to them, and DVC may need them.

    Raises:
        UnrestoredError: Kubeflow's databases are neither the backup's nor as before.
        UserError: a store refuses; the databases are then as before.
    """
    for bucket in manifest.buckets:
        say(f"restoring the bucket {bucket}")
        containers.load(folder / _archive(bucket), *_objects("load", bucket))
    say("restoring the databases" if manifest.kubeflow else "restoring the database")
    kubeflow = kubeflow_database.replaced(containers, folder / KUBEFLOW)
    with kubeflow if manifest.kubeflow else nullcontext():
        mlflow_database.load(containers, folder / DATABASE)


def require_new(folder: Path) -> None:
    """Raise UserError if the folder exists."""
    if folder.exists():
        raise UserError(f"{folder} exists: name a new folder for the backup")


def describe_size(manifest: Manifest) -> str:
    """Describe for the user how large a backup is."""
    num_bytes = sum(file.num_bytes for file in manifest.files)
    return f"{num_bytes / 1e6:,.1f} MB in {len(manifest.files)} files"


def describe_contents(manifest: Manifest) -> str:
    """Describe for the user what a restore has put back, and its age."""
    databases = "the databases" if manifest.kubeflow else "MLflow's database"
    buckets = f" and the buckets {', '.join(manifest.buckets)}" if manifest.buckets else ""
    return f"{databases}{buckets} as of {manifest.created}"


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to write to, which gets its name only if the block succeeds."""
    require_new(folder)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # from a killed command
    part.mkdir(mode=0o700, parents=True)
    try:
        yield part
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _describe(path: Path) -> BackupFile:
    return BackupFile(name=path.name, num_bytes=path.stat().st_size, sha256=hash_file(path))


def _archive(bucket: str) -> str:
    return f"bucket-{bucket}.tar"


def _objects(action: str, bucket: str) -> tuple[str, ...]:
    return ("buckets", "python3", "objects.py", action, bucket)
