"""Stop MLflow's servers before another image of them starts, which may upgrade the database."""

from collections.abc import Sequence

from crossfold.infra.messages import Say

from .kubectl import Cluster, Object
from .readiness import wait_until_ended

_SERVER = ("deployment", "mlflow", "--namespace=mlflow")


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
    wait_until_ended(cluster, "mlflow", {"app.kubernetes.io/name": "mlflow"})


def _is_server(found: Object) -> bool:
    return (found["kind"], found["metadata"]["name"]) == ("Deployment", "mlflow")


def _image(deployment: Object) -> str:
    return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])
