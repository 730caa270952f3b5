"""Stop the Deployments that write to a cluster's stores, and start them again."""

import json
from collections.abc import Sequence

from crossfold.errors import UserError
from crossfold.infra.cluster.addresses import KUBEFLOW
from crossfold.infra.cluster.kubectl import Cluster, Object, namespace_of
from crossfold.infra.cluster.readiness import AT_WORK, wait_until_ended
from crossfold.infra.messages import Say

# A stopped Deployment remembers its replicas, for the command that follows a killed one.
REPLICAS = "crossfold/replicas"
_STORE = "mysql"  # the only Deployment in Kubeflow's namespace that must go on
_STEPS = "--selector=workflows.argoproj.io/workflow"


def refuse_running_steps(cluster: Cluster) -> None:
    """Raise UserError if a step of a pipeline runs: it would write to the restored stores."""
    pods = cluster.items("pods", f"--namespace={KUBEFLOW}", _STEPS, AT_WORK)
    if pods:
        names = ", ".join(pod["metadata"]["name"] for pod in pods)
        raise UserError(
            f"a pipeline is running (pods {names}): wait for its end, or terminate it on "
            "Kubeflow's page"
        )


def is_half_restored(cluster: Cluster) -> bool:
    """Tell whether a restore has stopped MLflow or Kubeflow, and did not finish."""
    return any(_replicas_before(writer) for writer in _writers(cluster))


def refuse_half_restored(cluster: Cluster) -> None:
    """Raise UserError if a restore did not finish: nothing must start on half of its data."""
    if is_half_restored(cluster):
        raise UserError(
            "a restore did not finish, so MLflow and Kubeflow are stopped: run "
            "`crossfold cluster restore --replace FOLDER` again"
        )


def stop_writers(cluster: Cluster, say: Say) -> None:
    """Scale MLflow and Kubeflow to no pods, and wait for the pods' end.

    Raises:
        UserError: a pod does not end.
    """
    say("stopping MLflow and Kubeflow")
    writers = _writers(cluster)
    for writer in writers:
        if replicas := writer["spec"]["replicas"]:
            _scale(cluster, writer, 0, before=str(replicas))
    for writer in writers:
        labels = writer["spec"]["selector"]["matchLabels"]
        wait_until_ended(cluster, namespace_of(writer), labels)


def start_writers(cluster: Cluster) -> None:
    """Start what `stop_writers` stopped, in this command or an earlier one."""
    for writer in _writers(cluster):
        if replicas := _replicas_before(writer):
            _scale(cluster, writer, int(replicas), before=None)


def _writers(cluster: Cluster) -> Sequence[Object]:
    found = [
        deployment
        for namespace in ("mlflow", KUBEFLOW)
        for deployment in cluster.items("deployments", f"--namespace={namespace}")
    ]
    return [deployment for deployment in found if deployment["metadata"]["name"] != _STORE]


def _replicas_before(writer: Object) -> str | None:
    replicas: str | None = writer["metadata"].get("annotations", {}).get(REPLICAS)
    return replicas


def _scale(cluster: Cluster, writer: Object, replicas: int, *, before: str | None) -> None:
    """Set a Deployment's replicas and its annotation in one request, so that both always agree."""
    patch = {"metadata": {"annotations": {REPLICAS: before}}, "spec": {"replicas": replicas}}
    where = (f"deployment/{writer['metadata']['name']}", f"--namespace={namespace_of(writer)}")
    cluster.kubectl("patch", *where, "--type=merge", f"--patch={json.dumps(patch)}")
