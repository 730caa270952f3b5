"""Delete MLflow's runs permanently, from a project's local store or beside a server's database."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path

from crossfold.tracking import permanent_deletion
from crossfold.tracking.sqlite_store import SQLITE, artifact_folder

# Deletes runs and logged models by their ids.
Deletion = Callable[[Sequence[str], Sequence[str]], None]


def delete_from_store(store: Path, runs: Sequence[str], models: Sequence[str]) -> None:
    """Delete runs and logged models from an SQLite store, with their files."""
    artifacts = artifact_folder(store).as_uri()
    permanent_deletion.delete_permanently(f"{SQLITE}{store}", artifacts, runs, models)


def server_script(runs: Sequence[str], models: Sequence[str]) -> str:
    """Write the Python script that deletes runs and logged models in MLflow's container."""
    call = f"delete_in_server({list(runs)!r}, {list(models)!r})"
    return f"{inspect.getsource(permanent_deletion)}\n\n{call}\n"
