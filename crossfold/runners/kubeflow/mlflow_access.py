"""Connect to the cluster's MLflow from this machine, and read a run's outcome there."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlflow.exceptions import MlflowException

from crossfold.infra.cluster.checks import check_kubectl
from crossfold.infra.cluster.kubectl import Cluster
from crossfold.infra.secret_names import MLFLOW_SECRET
from crossfold.records import Evaluation, Leaderboard, Registration
from crossfold.runners.failures import StepError
from crossfold.runners.outcome import Outcome
from crossfold.tracking import runs

from .access import reach, required_secret
from .workflow import State, Task


def mlflow_variables(context: str) -> dict[str, str]:
    """Build the variables that connect commands on this machine to the cluster's MLflow.

    Raises:
        UserError: the cluster does not respond, or has no login.
    """
    check_kubectl()
    cluster = Cluster(context)
    cluster.check_answers()
    login = required_secret(cluster, MLFLOW_SECRET)
    login["MLFLOW_TRACKING_URI"] = login.pop("MLFLOW_PAGES", login["MLFLOW_TRACKING_URI"])
    return login


@contextlib.contextmanager
def connected_mlflow(cluster: Cluster) -> Iterator[str]:
    """Connect `crossfold.tracking` to the cluster's MLflow; yield the address of its pages."""
    login = required_secret(cluster, MLFLOW_SECRET)
    server = login["MLFLOW_TRACKING_URI"]
    with contextlib.ExitStack() as stack:
        inside = reach(cluster, server, stack)
        os.environ.update({**login, "MLFLOW_TRACKING_URI": inside or server})
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
        yield login.get("MLFLOW_PAGES", server)


def read_outcome(cluster: Cluster, run_id: str, url: str, steps: list[Task]) -> Outcome:
    """Read a run's outcome, which its steps logged under the pipeline's run in MLflow.

    Raises:
        StepError: the outcome is incomplete, or MLflow does not return it.
    """
    with connected_mlflow(cluster) as pages, tempfile.TemporaryDirectory() as folder:
        try:
            run = runs.find_run(run_id)
            logged = {file.path for file in run.client.list_artifacts(run.id)}
            if missing := sorted(set(runs.OUTCOME) - logged):
                raise StepError(f"the run succeeded, but its run in MLflow lacks {missing}")
            files = {
                name: Path(run.client.download_artifacts(run.id, name, folder))
                for name in runs.OUTCOME
            }
        except MlflowException as error:
            raise StepError(f"the run succeeded, but MLflow does not tell of it: {error}") from None
        registration = Registration.read(files["registration.json"])
        version = f"{registration.name}/versions/{registration.version}"
        return Outcome(
            leaderboard=Leaderboard.read(files["leaderboard.json"]),
            evaluation=Evaluation.read(files["evaluation.json"]),
            registration=registration,
            report_html=files["report.html"].read_text(encoding="utf-8"),
            num_steps=len(steps),
            num_reused=sum(task.state is State.REUSED for task in steps),
            places=(
                f"Kubeflow: {url}",
                f"MLflow:   {pages}/#/experiments/{run.experiment_id}/runs/{run.id}",
                f"          {pages}/#/models/{version}",
            ),
        )
