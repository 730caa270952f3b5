"""Stop MLflow's servers before another image of them starts, which may upgrade the database."""

from collections.abc import Sequence

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from crossfold.errors import UserError
from crossfold.infra.messages import Say

from .kubectl import Cluster, Object

_SERVER = ("deployment", "mlflow", "--namespace=mlflow")
# Evicted pods stay, as failed ones.
_AT_WORK = "--field-selector=status.phase!=Failed,status.phase!=Succeeded"
_PODS = ("pods", "--selector=app.kubernetes.io/name=mlflow", "--namespace=mlflow", _AT_WORK)
_TIMEOUT = 120  # seconds; a pod's grace period is 45


def stop_other_mlflow(cluster: Cluster, objects: Sequence[Object], say: Say) -> None:
    """Stop MLflow's servers if they have another image than in `objects`.

    A rolling update would let an earlier server write while a newer one changes the tables, which
    MLflow forbids. Applying `objects` starts the servers again.

    Raises:
        UserError: a server does not end.
    """
    present = cluster.get(*_SERVER)
    (wanted,) = (found for found in objects if _is_server(found))
    if not present or _image(present) == _image(wanted):
        return
    say("stopping MLflow, because another version of it may upgrade the database")
    cluster.kubectl("scale", *_SERVER, "--replicas=0")
    retrying = Retrying(
        retry=retry_if_result(bool), stop=stop_after_delay(_TIMEOUT), wait=wait_fixed(1)
    )
    try:
        retrying(cluster.items, *_PODS)
    except RetryError:
        raise UserError(
            f"MLflow's pods did not end within {_TIMEOUT} s, so nothing was updated, and MLflow is "
            "being stopped. When they have ended, run this command again. "
            f"See: kubectl --context {cluster.context} describe pods -n mlflow"
        ) from None


def _is_server(found: Object) -> bool:
    return (found["kind"], found["metadata"]["name"]) == ("Deployment", "mlflow")


def _image(deployment: Object) -> str:
    return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])
