"""Run the pipeline on Kubeflow Pipelines: check, submit, watch, read the outcome."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from mlflow.exceptions import MlflowException

from crossfold.diagnosis.findings import Diagnosis
from crossfold.errors import UserError
from crossfold.infra.cluster.addresses import KUBEFLOW_PAGE
from crossfold.infra.cluster.checks import check_kubectl
from crossfold.infra.cluster.image_delivery import bring_images
from crossfold.infra.cluster.kind import KIND_CONTEXT
from crossfold.infra.cluster.kubectl import Cluster
from crossfold.infra.cluster.lifecycle import is_small
from crossfold.records import Evaluation, Leaderboard, Registration
from crossfold.runners.display import Display
from crossfold.runners.failures import StepError, signals_interrupt
from crossfold.runners.outcome import Outcome
from crossfold.runners.pre_run_checks import CheckedModel, check_model, check_pointers
from crossfold.settings import Settings
from crossfold.tracking import run_tree, store

from . import api
from .access import connected_mlflow
from .submission import push_data, upload
from .watch import SilenceError, watch_run
from .workflow import State, Task


@dataclass(frozen=True)
class KubeflowRunner:
    """Submit the pipeline to Kubeflow on a cluster, and watch it.

    `context` is a kubectl context. `registry` is where the cluster pulls the images from; without
    one, the cluster already has them, or kind loads them.
    """

    context: str = KIND_CONTEXT
    registry: str | None = None

    def run(
        self, root: Path, settings: Settings, display: Display, *, caching: bool, record: bool
    ) -> Outcome:
        """Run the pipeline; see `Runner`. A submitted run continues after a signal."""
        check_kubectl()
        cluster = Cluster(self.context)
        cluster.check_answers()
        check_pointers(root)
        model = check_model(root, settings)
        for note in model.notes:
            display.warn(note)
        pages = f"{KUBEFLOW_PAGE}/#/runs"
        with signals_interrupt(f"interrupted; if the run is already in {pages}, it continues"):
            run_id = self._submit(cluster, root, settings, model, display, caching=caching)
        url = f"{KUBEFLOW_PAGE}/#/runs/details/{run_id}"
        display.say(f"run {run_id}: {url}")
        steps = _watch(cluster, run_id, url, display)
        outcome = _outcome(cluster, run_id, url, steps)
        outcome.write_reports(root, record=record)
        return replace(outcome, notes=model.notes)

    def _submit(
        self,
        cluster: Cluster,
        root: Path,
        settings: Settings,
        model: CheckedModel,
        display: Display,
        *,
        caching: bool,
    ) -> str:
        """Deliver images and data to the cluster, submit the pipeline, and return the run's id."""
        with api.connected(cluster) as client:
            bring_images(cluster, self.registry, display.say)
            push_data(cluster, root, display)
            version, parameters = upload(
                client,
                root,
                settings,
                model,
                self.registry,
                caching=caching,
                small=is_small(cluster),
                present_data=True,
            )
            return api.start(client, version, parameters)


def _watch(cluster: Cluster, run_id: str, url: str, display: Display) -> list[Task]:
    """Watch a run until it ends, and return its steps; if it fails, end its MLflow run."""
    try:
        with display, signals_interrupt(f"stopped watching; the run continues: {url}"):
            return watch_run(cluster, run_id, display)
    except SilenceError:
        raise  # the run may not have ended
    except StepError:
        # Kubeflow's plugin ends the MLflow runs that it opened, but not one that a step opened.
        with (
            signals_interrupt(f"the run has failed: {url}"),
            store.best_effort(),
            connected_mlflow(cluster),
        ):
            run_tree.end_parent(run_id, "FAILED")
        raise


def _outcome(cluster: Cluster, run_id: str, url: str, steps: list[Task]) -> Outcome:
    with signals_interrupt(f"the run succeeded: {url}"):
        try:
            return read_outcome(cluster, run_id, url, steps)
        except UserError as error:
            raise StepError(f"the run succeeded, but its outcome cannot be read: {error}") from None


def read_outcome(cluster: Cluster, run_id: str, url: str, steps: list[Task]) -> Outcome:
    """Read a run's outcome, which its steps logged under the pipeline's run in MLflow.

    Raises:
        StepError: the outcome is incomplete, or MLflow does not return it.
    """
    with connected_mlflow(cluster) as pages, tempfile.TemporaryDirectory() as folder:
        try:
            run = run_tree.find_run(run_id)
            logged = {file.path for file in run.client.list_artifacts(run.id)}
            if missing := sorted(set(run_tree.OUTCOME) - logged):
                raise StepError(f"the run succeeded, but its run in MLflow lacks {missing}")
            files = {
                name: Path(run.client.download_artifacts(run.id, name, folder))
                for name in run_tree.OUTCOME
            }
        except MlflowException as error:
            raise StepError(
                f"the run succeeded, but its outcome cannot be read from MLflow: {error}"
            ) from None
        registration = Registration.read(files["registration.json"])
        version = f"{registration.name}/versions/{registration.version}"
        return Outcome(
            leaderboard=Leaderboard.read(files["leaderboard.json"]),
            evaluation=Evaluation.read(files["evaluation.json"]),
            diagnosis=Diagnosis.read(files["diagnosis.json"]),
            registration=registration,
            report_html=files["report.html"].read_text(encoding="utf-8"),
            num_steps=len(steps),
            num_reused=sum(task.state is State.REUSED for task in steps),
            places=(
                f"Kubeflow: {url}",
                f"MLflow:   {run.page(pages)}",
                f"          {pages}/#/models/{version}",
            ),
        )
