"""Wait until the workloads of a cluster are ready, or their pods have ended."""

from collections.abc import Iterable, Mapping, Sequence

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from crossfold.errors import UserError
from crossfold.infra.messages import Say

from .kubectl import Cluster, Object, namespace_of, trouble

PATIENCE = 900  # seconds without progress
END_TIMEOUT = 120  # seconds; the longest grace period of a pod is 60
# Evicted pods stay, as failed ones.
AT_WORK = "--field-selector=status.phase!=Failed,status.phase!=Succeeded"


def wait_until_ready(cluster: Cluster, namespaces: Sequence[str], say: Say) -> None:
    """Wait until every workload in the namespaces is ready, and print those that are not.

    Raises:
        UserError: no other workload became ready within `PATIENCE` seconds.
    """
    unready = _unready(cluster, namespaces)
    while unready:
        say(f"waiting for {', '.join(unready)}")
        unready = _unready_after_change(cluster, namespaces, unready)


def _unready_after_change(
    cluster: Cluster, namespaces: Sequence[str], before: list[str]
) -> list[str]:
    retrying = Retrying(
        retry=retry_if_result(lambda unready: unready == before),
        stop=stop_after_delay(PATIENCE),
        wait=wait_fixed(3),
    )
    try:
        return retrying(_unready, cluster, namespaces)
    except RetryError:
        raise UserError(_complaint(cluster, before)) from None


def _unready(cluster: Cluster, namespaces: Sequence[str]) -> list[str]:
    return qualified_names(item for item in workloads(cluster, namespaces) if not is_ready(item))


def workloads(cluster: Cluster, namespaces: Sequence[str]) -> list[Object]:
    """List the Deployments, StatefulSets and Jobs in the namespaces."""
    found = cluster.items("deployments,statefulsets,jobs", "--all-namespaces")
    return [item for item in found if namespace_of(item) in namespaces]


def qualified_names(objects: Iterable[Object]) -> list[str]:
    """List the objects' names with their namespaces, such as mlflow/mlflow, sorted."""
    return sorted(f"{namespace_of(found)}/{found['metadata']['name']}" for found in objects)


def is_ready(item: Object) -> bool:
    """Tell whether a workload's current version runs on all replicas, or a Job has succeeded."""
    state = item.get("status", {})
    if item["kind"] == "Job":
        return bool(state.get("succeeded"))
    wanted = item["spec"]["replicas"]
    seen = state.get("observedGeneration", 0) >= item["metadata"]["generation"]
    counts = ("replicas", "updatedReplicas", "availableReplicas")
    return seen and all(state.get(count, 0) == wanted for count in counts)


def wait_until_ended(cluster: Cluster, namespace: str, labels: Mapping[str, str]) -> None:
    """Wait until no pod with these labels runs.

    Raises:
        UserError: a pod does not end.
    """
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    pods = ("pods", f"--selector={selector}", f"--namespace={namespace}", AT_WORK)
    retrying = Retrying(
        retry=retry_if_result(bool), stop=stop_after_delay(END_TIMEOUT), wait=wait_fixed(1)
    )
    try:
        retrying(cluster.items, *pods)
    except RetryError:
        raise UserError(
            f"pods of {namespace} are still being stopped after {END_TIMEOUT} s, so their data "
            "were not changed. When they have ended, run this command again. See: kubectl "
            f"--context {cluster.context} describe pods -n {namespace} -l {selector}"
        ) from None


def _complaint(cluster: Cluster, unready: Sequence[str]) -> str:
    lines = [f"not ready after {PATIENCE // 60} minutes without progress: {', '.join(unready)}"]
    for namespace in sorted({name.split("/")[0] for name in unready}):
        lines += [
            f"  {namespace}/{pod['metadata']['name']}: {why}"
            for pod in cluster.items("pods", f"--namespace={namespace}")
            if (why := trouble(pod))
        ]
    lines.append(f"For details: kubectl --context {cluster.context} describe pod NAME -n NAMESPACE")
    return "\n".join(lines)
