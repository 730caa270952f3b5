"""Prints the revisions of the database that this MLflow knows, newest first, as JSON.

The keys are the tables in which PostgreSQL has its present revision: MLflow's, and its users'.
"""

import json
from pathlib import Path

import mlflow
from alembic.script import ScriptDirectory

FOLDERS = {
    "public.alembic_version": "store/db_migrations",
    "auth.alembic_version_auth": "server/auth/db/migrations",
}
MLFLOW = Path(mlflow.__file__).parent

print(
    json.dumps(
        {
            table: [script.revision for script in ScriptDirectory(MLFLOW / folder).walk_revisions()]
            for table, folder in FOLDERS.items()
        }
    )
)
