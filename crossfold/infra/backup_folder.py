"""The folder of a backup: MLflow's database, buckets, and a manifest with their hashes."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from crossfold.errors import UserError
from crossfold.records import Record
from crossfold.step.files import hash_file

from . import mlflow_database
from .compose_project import ComposeProject
from .messages import Say

MANIFEST = "manifest.json"
DATABASE = "mlflow.sql"
BUCKETS = ("mlflow", "dvc")


class BackupFile(Record):
    """A file of a backup, with its size in bytes and its SHA-256."""

    name: str
    num_bytes: int
    sha256: str


class Manifest(Record):
    """A complete backup: when it began (ISO 8601, UTC), by which versions, and its files.

    `revision` is that of MLflow's tables. `buckets` may be empty, as before an upgrade.
    """

    created: str
    crossfold: str
    revision: str
    buckets: tuple[str, ...]
    files: tuple[BackupFile, ...]


def save_backup(
    project: ComposeProject, folder: Path, buckets: Sequence[str], say: Say
) -> Manifest:
    """Write a backup of the running stores to a new folder, which exists only if complete.

    The database comes first: the files of each run and version that it has were in the bucket
    before, and what is written later is only more than is needed.

    Raises:
        UserError: the folder exists, or a store cannot be read.
    """
    created = datetime.now(UTC).isoformat(timespec="seconds")
    with _new_folder(folder) as part:
        revision = mlflow_database.require_revision(project)
        mlflow_database.dump(project, part / DATABASE)
        for bucket in buckets:
            say(f"copying the bucket {bucket}")
            project.save(part / _archive(bucket), *_objects("save", bucket))
        manifest = Manifest(
            created=created,
            crossfold=version("crossfold"),
            revision=revision,
            buckets=tuple(buckets),
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
            f"{folder} is not a backup: name a folder that `crossfold backup` wrote"
        ) from None
    for file in manifest.files:
        path = folder / file.name
        if not path.is_file() or _describe(path) != file:
            raise UserError(f"{path} is missing or damaged, so nothing was restored")
    return manifest


def load_backup(project: ComposeProject, folder: Path, manifest: Manifest, say: Say) -> None:
    """Put the buckets' objects back, then replace the database. MLflow must be stopped.

    Objects that are not in the backup stay: no run refers to them, and DVC may need them.

    Raises:
        UserError: a store refuses; the database is then as before.
    """
    for bucket in manifest.buckets:
        say(f"restoring the bucket {bucket}")
        project.load(folder / _archive(bucket), *_objects("load", bucket))
    say("restoring the database")
    mlflow_database.load(project, folder / DATABASE)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to write to, which gets its name only if the block succeeds."""
    if folder.exists():
        raise UserError(f"{folder} exists: name a new folder for the backup")
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
    return ("run", "--rm", "-T", "buckets", "python3", "objects.py", action, bucket)
