"""Delete runs and logged models in MLflow permanently, with their files, beside its database.

MLflow's container gets the text of this module as a script, so it imports nothing of Crossfold.
"""

import contextlib
import io
import os
from collections.abc import Sequence


def delete_permanently(
    store_uri: str, artifacts: str, runs: Sequence[str], models: Sequence[str]
) -> None:
    """Delete logged models, then runs, with all that MLflow has of them.

    If it is interrupted, what is left is still in MLflow, or is found there as deleted.

    The core of `mlflow gc` without its command line, which would also delete each deleted
    experiment, and each deleted run if there is no id.

    Args:
        store_uri: the address of MLflow's database.
        artifacts: where its artifacts are.
        runs: the runs' ids.
        models: the logged models' ids.
    """
    from mlflow.cli import _gc_tracking_resources
    from mlflow.tracking import _get_store

    store = _get_store(store_uri, artifacts)

    def purge(runs: Sequence[str], models: Sequence[str]) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # a line for each
            _gc_tracking_resources(
                store, list(runs), None, list(models), None, 0, True, skip_logged_models=False
            )

    for model in models:  # one by one: MLflow does not list a deleted model any more
        store.delete_logged_model(model)
        purge((), [model])
    for run in runs:
        store.delete_run(run)
    for run in runs:  # in this order, of which MLflow keeps nothing within one call
        purge([run], ())


def delete_in_server(runs: Sequence[str], models: Sequence[str]) -> None:
    """Delete runs and models in the container of MLflow's server, as its administrator."""
    os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:5000"  # deletes the objects
    for part in ("USERNAME", "PASSWORD"):
        os.environ[f"MLFLOW_TRACKING_{part}"] = os.environ[f"MLFLOW_AUTH_ADMIN_{part}"]
    store_uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
    delete_permanently(store_uri, os.environ["MLFLOW_ARTIFACTS_DESTINATION"], runs, models)
