"""Copy and restore MLflow's database in PostgreSQL, and compare it with MLflow's image."""

import json
from pathlib import Path

from crossfold.errors import UserError

from .containers import Containers
from .file_ends import require_end

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
_SCHEMA = "SELECT 'public'::regnamespace::oid"
REVISION = "public.alembic_version"  # the table with the revision of MLflow's own tables

Revisions = dict[str, list[str]]


def known_revisions(containers: Containers) -> Revisions:
    """List the revisions that MLflow's image knows, the newest first, by the table's name.

    In Docker, this starts PostgreSQL and the object store, and waits for them.
    """
    revisions: Revisions = json.loads(containers.output("mlflow", "python3", "revisions.py"))
    return revisions


def present_revision(containers: Containers, table: str) -> str | None:
    """Return the database's revision in a table of versions; None if the table does not exist."""
    if query(containers, f"SELECT to_regclass('{table}') IS NULL") == "t":
        return None
    return query(containers, f"SELECT version_num FROM {table}")


def require_revision(containers: Containers) -> str:
    """Return the revision of MLflow's tables.

    Raises:
        UserError: there are no tables.
    """
    revision = present_revision(containers, REVISION)
    if revision is None:
        raise UserError(
            "MLflow has no data yet: run `crossfold services up` or `crossfold cluster up` first"
        )
    return revision


def is_empty(containers: Containers) -> bool:
    """Tell whether the database has no run and no registered model."""
    if present_revision(containers, REVISION) is None:
        return True
    rows = "EXISTS (SELECT FROM runs) OR EXISTS (SELECT FROM registered_models)"
    return query(containers, f"SELECT {rows}") == "f"


def dump(containers: Containers, path: Path) -> None:
    """Write the database as of one moment to a new file of SQL, which ends with COMMIT.

    Raises:
        UserError: the database cannot be read to its end.
    """
    containers.save(path, "postgres", *_login("pg_dump", "--no-owner", "--no-privileges"))
    require_end(path, "PostgreSQL database dump complete")
    with path.open("a") as file:
        file.write(_COMMIT)


def load(containers: Containers, path: Path) -> None:
    """Replace the database by that of `dump`, completely or not at all.

    The file itself commits. With psql's `--single-transaction`, psql would commit what it had read
    if this command died, because it takes that for the end of the file. Without COMMIT, psql rolls
    back and succeeds. Then the schema still has its earlier number.

    Raises:
        UserError: the database is as before.
    """
    before = query(containers, _SCHEMA)
    begin = [f"--command={statement}" for statement in _REPLACE]
    options = ("--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1")
    containers.load(path, "postgres", *_login("psql", *options, *begin, "--file=-"))
    if query(containers, _SCHEMA) == before:
        raise UserError(
            "PostgreSQL did not receive the whole database, so MLflow's database is as before: "
            "run the command again"
        )


def query(containers: Containers, statement: str) -> str:
    """Return PostgreSQL's answer to a query, without headings."""
    command = _login("psql", "--no-psqlrc", "-qAt", f"--command={statement}")
    return containers.output("postgres", *command)


def _login(program: str, *options: str) -> tuple[str, ...]:
    return (*_WITH_PASSWORD, program, *_LOGIN, *options)
