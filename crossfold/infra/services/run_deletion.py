"""Delete MLflow's runs permanently: from the services, or from a project's local store."""

import inspect
import tempfile
from collections.abc import Sequence
from pathlib import Path

from crossfold.errors import UserError
from crossfold.tracking import permanent_deletion
from crossfold.tracking.sqlite_store import SQLITE, artifact_folder
from crossfold.tracking.store import without_login

from .compose import ENVIRONMENT, read_environment
from .compose_project import ComposeProject


def services_at(root: Path, address: str) -> ComposeProject:
    """Find the services of `root` that have their MLflow at an address.

    Raises:
        UserError: MLflow is another one, or Docker is not available.
    """
    path = root / ENVIRONMENT
    environment = read_environment(path) if path.exists() else {}
    if environment.get("MLFLOW_TRACKING_URI") != address:
        raise UserError(
            f"runs of {without_login(address)} can't be deleted permanently from here: MLflow does "
            "that only beside its database. List them without --delete, delete them on MLflow's "
            "pages, then run `mlflow gc` there"
        )
    return ComposeProject.find(root, environment)


def delete_from_services(
    project: ComposeProject, runs: Sequence[str], models: Sequence[str]
) -> None:
    """Delete runs and logged models in MLflow's container, which must run.

    Raises:
        UserError: it failed; the message has MLflow's.
    """
    call = f"delete_in_server({list(runs)!r}, {list(models)!r})"
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "delete.py"
        script.write_text(f"{inspect.getsource(permanent_deletion)}\n\n{call}\n")
        project.run_script(script, "mlflow")


def delete_from_store(store: Path, runs: Sequence[str], models: Sequence[str]) -> None:
    """Delete runs and logged models from an SQLite store, with their files."""
    artifacts = artifact_folder(store).as_uri()
    permanent_deletion.delete_permanently(f"{SQLITE}{store}", artifacts, runs, models)
