"""Starts the MLflow server, once its tables and users in PostgreSQL are as they should be.

Replicas may start at the same moment: they bring tables and users up to date one after another.
`start.py prepare` does only that.
"""

import os
import shutil
import sys
import time
from contextlib import closing
from pathlib import Path

import psycopg

REQUIRED = (
    "PGHOST",
    "PGDATABASE",
    "PGUSER",
    "PGPASSWORD",
    "MLFLOW_ARTIFACTS_DESTINATION",
    "MLFLOW_SERVER_ALLOWED_HOSTS",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "MLFLOW_AUTH_ADMIN_USERNAME",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
)
SCRATCH = Path("/tmp/passing-artifacts")  # on a volume, which outlives the container
DATABASE_TIMEOUT = 60  # seconds
LOCK = 5001  # a number that nothing else locks in this database


def main(*, serve: bool) -> None:
    """Prepare the database, then serve until stopped."""
    missing = [name for name in REQUIRED if not os.environ.get(name)]
    if missing:
        sys.exit(f"error: set the environment variables {', '.join(missing)}")
    with closing(_connect()) as connection:
        # The lock is the connection's: whatever ends this process frees it.
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        _prepare(connection)
    if serve:
        _allow_hosts()
        _empty_scratch()
        _serve()


def _connect() -> psycopg.Connection:
    deadline = time.monotonic() + DATABASE_TIMEOUT
    while True:
        try:
            return psycopg.connect(autocommit=True)
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                sys.exit(f"error: no connection to PostgreSQL for {DATABASE_TIMEOUT} s: {error}")
        time.sleep(0.5)


def _prepare(connection: psycopg.Connection) -> None:
    # MLflow takes seconds to import: not before the database answers.
    from alembic.util import CommandError
    from mlflow.db import upgrade
    from mlflow.exceptions import MlflowException
    from mlflow.server.auth import bootstrap_admin_user
    from sqlalchemy.exc import SQLAlchemyError

    connection.execute("CREATE SCHEMA IF NOT EXISTS auth")
    try:
        upgrade([os.environ["MLFLOW_BACKEND_STORE_URI"]], standalone_mode=False)
        bootstrap_admin_user()
        for role in ("AUTH_ADMIN", "TRACKING"):
            _ensure_user(role)
    except (CommandError, MlflowException, SQLAlchemyError) as error:
        sys.exit(f"error: {error}")


def _ensure_user(role: str) -> None:
    """Create the user, or give it the password that the environment states."""
    from mlflow.server.auth import store

    name, password = (os.environ[f"MLFLOW_{role}_{part}"] for part in ("USERNAME", "PASSWORD"))
    if not store.has_user(name):
        store.create_user(name, password, is_admin=role == "AUTH_ADMIN")
    elif not store.authenticate_user(name, password):
        store.update_user(name, password=password)


def _allow_hosts() -> None:
    """Let MLflow answer under each name with and without a port, and to the health check."""
    names = [*os.environ["MLFLOW_SERVER_ALLOWED_HOSTS"].split(","), "127.0.0.1"]
    allowed = ",".join(f"{name},{name}:*" for name in names)
    os.environ["MLFLOW_SERVER_ALLOWED_HOSTS"] = allowed


def _empty_scratch() -> None:
    """Give the artifacts that pass through a folder without those of a killed server."""
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(SCRATCH)  # for the server's own process, which MLflow starts


def _serve() -> None:
    # In this process, which has spent its seconds on importing MLflow already.
    from mlflow.cli import cli

    cli(["server", "--app-name", "basic-auth"])


if __name__ == "__main__":
    main(serve=sys.argv[1:] != ["prepare"])
