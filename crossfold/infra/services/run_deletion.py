"""Delete MLflow's runs permanently from the services."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from crossfold.errors import UserError
from crossfold.infra.run_deletion import server_script
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
            "that only beside its database. On a cluster, `crossfold cluster clean --delete` does "
            "it. Elsewhere, list them without --delete, delete them on MLflow's pages, then run "
            "`mlflow gc` there"
        )
    return ComposeProject.find(root, environment)


def delete_from_services(
    project: ComposeProject, runs: Sequence[str], models: Sequence[str]
) -> None:
    """Delete runs and logged models in MLflow's container, which must run.

    Raises:
        UserError: it failed; the message has MLflow's.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "delete.py"
        script.write_text(server_script(runs, models))
        project.run_script(script, "mlflow")
