"""Reach the cluster's services: Secrets, forwarded addresses, and MLflow with its login."""

import contextlib
import os
import re
from collections.abc import Iterator

from crossfold.errors import UserError
from crossfold.infra.cluster.addresses import KUBEFLOW
from crossfold.infra.cluster.checks import check_kubectl
from crossfold.infra.cluster.kubectl import Cluster
from crossfold.infra.secret_names import MLFLOW_SECRET

_INSIDE = re.compile(r"http://([\w-]+)\.([\w-]+)\.svc(?:\.cluster\.local)?:(\d+)/?")


def required_secret(cluster: Cluster, name: str) -> dict[str, str]:
    """Read the values of a Secret that the steps use.

    Raises:
        UserError: the Secret does not exist.
    """
    values = cluster.secret(KUBEFLOW, name)
    if values is None:
        raise UserError(
            f"there is no Secret {KUBEFLOW}/{name} in {cluster.context}: run "
            "`crossfold cluster up`, or see docs/cluster.md for your own Kubeflow"
        )
    return values


def reach(cluster: Cluster, address: str, stack: contextlib.ExitStack) -> str | None:
    """Forward an in-cluster address until `stack` closes; None if the address is outside."""
    inside = _INSIDE.fullmatch(address)
    if inside is None:
        return None
    service, namespace, port = inside.groups()
    return stack.enter_context(cluster.forwarded(namespace, service, int(port)))


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
