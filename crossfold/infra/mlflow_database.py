"""Copy and restore MLflow's database in PostgreSQL, and compare it with MLflow's image."""

import json
from pathlib import Path

from crossfold.errors import UserError

from .compose_project import ComposeProject

# The password comes from the container's environment, not from a command line.
_WITH_PASSWORD = ("sh", "-c", 'PGPASSWORD="$POSTGRES_PASSWORD" exec "$0" "$@"')
_LOGIN = ("--host=127.0.0.1", "--username=mlflow", "--dbname=mlflow")
_REPLACE = (
    "BEGIN",
    "DROP SCHEMA IF EXISTS auth CASCADE",
    "DROP SCHEMA public CASCADE",
    "CREATE SCHEMA public AUTHORIZATION pg_database_owner",
)
_COMMIT = "\nCOMMIT;\n"
REVISION = "public.alembic_version"  # the table with the revision of MLflow's own tables

Revisions = dict[str, list[str]]


def known_revisions(project: ComposeProject) -> Revisions:
    """List the revisions that MLflow's image knows, the newest first, by the table's name.

    Starts PostgreSQL and the object store, and waits for them.
    """
    command = ("run", "--rm", "-T", "mlflow", "python3", "revisions.py")
    revisions: Revisions = json.loads(project.output(*command))
    return revisions


def present_revision(project: ComposeProject, table: str) -> str | None:
    """Return the database's revision in a table of versions; None if the table does not exist."""
    if query(project, f"SELECT to_regclass('{table}') IS NULL") == "t":
        return None
    return query(project, f"SELECT version_num FROM {table}")


def require_revision(project: ComposeProject) -> str:
    """Return the revision of MLflow's tables.

    Raises:
        UserError: there are no tables.
    """
    revision = present_revision(project, REVISION)
    if revision is None:
        raise UserError("MLflow has no data yet: run `crossfold services up` first")
    return revision


def is_empty(project: ComposeProject) -> bool:
    """Tell whether the database has no run and no registered model."""
    if present_revision(project, REVISION) is None:
        return True
    rows = "EXISTS (SELECT FROM runs) OR EXISTS (SELECT FROM registered_models)"
    return query(project, f"SELECT {rows}") == "f"


def dump(project: ComposeProject, path: Path) -> None:
    """Write the database as of one moment to a new file of SQL, which ends with COMMIT."""
    project.save(path, *_in_postgres("pg_dump", "--no-owner", "--no-privileges"))
    with path.open("a") as file:
        file.write(_COMMIT)


def load(project: ComposeProject, path: Path) -> None:
    """Replace the database by that of `dump`, completely or not at all.

    The file itself commits. With psql's `--single-transaction`, psql would commit what it had read
    if this command died, because it takes that for the end of the file.
    """
    begin = [f"--command={statement}" for statement in _REPLACE]
    options = ("--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1")
    project.load(path, *_in_postgres("psql", *options, *begin, "--file=-"))


def query(project: ComposeProject, statement: str) -> str:
    """Return PostgreSQL's answer to a query, without headings."""
    return project.output(*_in_postgres("psql", "--no-psqlrc", "-qAt", f"--command={statement}"))


def _in_postgres(program: str, *options: str) -> tuple[str, ...]:
    return ("exec", "-T", "postgres", *_WITH_PASSWORD, program, *_LOGIN, *options)
