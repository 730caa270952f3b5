"""Copy and restore Kubeflow's databases in MySQL."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from crossfold.errors import UserError
from crossfold.infra.backups.containers import Containers
from crossfold.infra.backups.file_ends import require_end

# Runs and pipelines, the steps' artifacts, and the cache of pipelines of the first generation.
DATABASES = ("mlpipeline", "metadb", "cachedb")
_RUNS = "mlpipeline.run_details"
# The password comes from the container's environment, not from a command line.
_WITH_PASSWORD = ("sh", "-c", 'MYSQL_PWD="$MYSQL_ROOT_PASSWORD" exec "$0" --user=root "$@"')
# The server ends a session, with its lock, some time after its client.
_LOCK = "--init-command=SELECT GET_LOCK('crossfold', 600)"


class UnrestoredError(UserError):
    """The databases are neither the backup's nor as before."""


def present_databases(containers: Containers) -> tuple[str, ...]:
    """List those of `DATABASES` that exist."""
    names = _query(containers, "SHOW DATABASES").split()
    return tuple(name for name in DATABASES if name in names)


def has_runs(containers: Containers) -> bool:
    """Tell whether Kubeflow has a run."""
    schema, table = _RUNS.split(".")
    exists = (
        "SELECT COUNT(*) FROM information_schema.tables "
        f"WHERE table_schema = '{schema}' AND table_name = '{table}'"
    )
    if _query(containers, exists) == "0":
        return False
    return _query(containers, f"SELECT EXISTS (SELECT 1 FROM {_RUNS})") == "1"


def dump(containers: Containers, path: Path, databases: Sequence[str]) -> None:
    """Write databases as of one moment to a new file of SQL, which replaces them.

    Raises:
        UserError: the databases cannot be read to their end.
    """
    options = ("--single-transaction", "--no-tablespaces", "--hex-blob", "--add-drop-database")
    command = ("mysqldump", *options, "--databases", *databases)
    containers.save(path, "mysql", *_WITH_PASSWORD, *command)
    require_end(path, "Dump completed")


@contextmanager
def replaced(containers: Containers, path: Path) -> Iterator[None]:
    """Replace the databases by those of `dump`, and undo that if the block fails.

    MySQL commits each change of a table at once, so the undo is a copy of the present databases.

    Raises:
        UnrestoredError: the undo failed too.
        UserError: the databases cannot be read or replaced.
    """
    with TemporaryDirectory() as folder:
        before = Path(folder) / "before.sql"
        present = present_databases(containers)
        if present:
            dump(containers, before, present)
        try:
            _load(containers, path)
            yield
        except BaseException as error:  # an interrupt too
            _undo(containers, before, present, error)
            raise


def _undo(
    containers: Containers, before: Path, present: Sequence[str], cause: BaseException
) -> None:
    try:
        if present:
            _load(containers, before)
        for name in DATABASES:
            if name not in present:
                _drop(containers, name)
    except BaseException as error:
        raise UnrestoredError(
            "Kubeflow's databases could be neither restored nor put back, so Kubeflow and MLflow "
            "are stopped. Remove the cause, then run `crossfold cluster restore --replace` again. "
            f"{cause} {error}"
        ) from error


def _load(containers: Containers, path: Path) -> None:
    containers.load(path, "mysql", *_WITH_PASSWORD, "mysql", _LOCK)


def _drop(containers: Containers, database: str) -> None:
    statement = f"DROP DATABASE IF EXISTS {database}"
    containers.output("mysql", *_WITH_PASSWORD, "mysql", _LOCK, f"--execute={statement}")


def _query(containers: Containers, statement: str) -> str:
    options = ("--batch", "--skip-column-names", f"--execute={statement}")
    return containers.output("mysql", *_WITH_PASSWORD, "mysql", *options)
