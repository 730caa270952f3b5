"""Keep MLflow's SQLite store usable after it was moved with its artifacts.

MLflow records every artifact's absolute address and has no command that changes one.
"""

import fcntl
import glob
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from crossfold.errors import UserError

SQLITE = "sqlite:///"
# Set for a container: the folder, as a file: address, that the tracking server serves as its own.
SERVED_ARTIFACTS = "CROSSFOLD_SERVED_ARTIFACTS"
_FOLDER = "mlartifacts"
_HEADER = 100  # bytes
_ROLLBACK_JOURNAL = b"\x01\x01"
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def artifact_folder(store: Path) -> Path:
    """Return the artifact folder of an SQLite store."""
    return store.resolve().parent / _FOLDER


def prepare_store(store: Path) -> None:
    """Create a store if it is missing, and update the addresses of a moved store.

    Raises:
        UserError: the store cannot be read or written.
        Exception: MLflow's, if it cannot make its tables; no store is left then.
    """
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        if not store.exists():
            _create(store)
        _update_locations(store)
    except (OSError, sqlite3.Error) as error:
        raise UserError(
            f"the tracking store {store} cannot be opened: {error}. It must be a writable SQLite "
            "file, or a file that does not exist yet"
        ) from error


def state(store: Path) -> str | None:
    """Identify a store's content without reading it; None if that is not possible.

    Each transaction raises the change counter in the file's header, unless the store uses a
    write-ahead log (https://www.sqlite.org/fileformat2.html#file_change_counter). The file's own
    data tell a copy or an older file in its place from it.
    """
    try:
        with store.open("rb") as file:
            header, about = file.read(_HEADER), os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    if header[18:20] != _ROLLBACK_JOURNAL:
        return None
    facts = f"{about.st_dev} {about.st_ino} {about.st_size} {about.st_mtime_ns}"
    return hashlib.sha256(header + facts.encode()).hexdigest()


def find_experiment(store: Path, name: str) -> int | None:
    """Look up the id of an experiment in a prepared store; None if it has none of that name."""
    with closing(sqlite3.connect(store)) as database:
        if not _has_tables(database):
            return None
        query = "SELECT experiment_id FROM experiments WHERE name = ?"
        row = database.execute(query, (name,)).fetchone()
        return row and int(row[0])


def _create(store: Path) -> None:
    """Create a store completely or not at all, for example on a full disk.

    MLflow makes its tables in dozens of transactions. If it is stopped between two of them, no
    later start gets past the half that is there.
    """
    from mlflow.tracking import MlflowClient  # slow, and needed once in a project's life

    prefix = f".{store.name}.new-"
    with _creation_lock(store):
        if store.exists():
            return  # another process has made it meanwhile
        for leftover in store.parent.glob(f"{glob.escape(prefix)}*"):
            shutil.rmtree(leftover)  # of a process that was killed, or it would hold the lock
        with tempfile.TemporaryDirectory(dir=store.parent, prefix=prefix) as folder:
            whole = Path(folder) / store.name
            MlflowClient(tracking_uri=f"{SQLITE}{whole}", registry_uri=f"{SQLITE}{whole}")
            try:
                os.link(whole, store)
            except FileExistsError:
                pass  # of another program, which may have used its own
            except OSError:  # a file system without hard links
                whole.rename(store)


@contextmanager
def _creation_lock(store: Path) -> Iterator[None]:
    """Let one process at a time create a store. The system frees the lock of a killed one.

    The file stays: if it were deleted, a process that waits for it would hold another's lock.
    """
    with store.with_name(f".{store.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _update_locations(store: Path) -> None:
    here = artifact_folder(store).as_uri()
    with closing(sqlite3.connect(store, timeout=20)) as database, database:
        for before in _other_folders(database, here):
            for table, column in _ADDRESSES:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (here, len(before) + 1, before, len(before) + 1, f"{before}/"),
                )


def _other_folders(database: sqlite3.Connection, here: str) -> list[str]:
    """List the experiments' artifact folders other than `here`."""
    if not _has_tables(database):
        return []
    found = database.execute(
        "SELECT DISTINCT artifact_location FROM experiments "
        "WHERE artifact_location LIKE 'file://%/' || ? AND artifact_location != ?",
        (_FOLDER, here),
    )
    return [str(location) for (location,) in found]


def _has_tables(database: sqlite3.Connection) -> bool:
    """Tell whether MLflow has made its tables."""
    return bool(database.execute("PRAGMA table_info(experiments)").fetchall())
