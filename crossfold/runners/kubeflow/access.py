"""Reach the cluster's services: read the steps' Secrets, forward in-cluster addresses."""

import contextlib
import re

from crossfold.errors import UserError
from crossfold.infra.cluster.addresses import KUBEFLOW
from crossfold.infra.cluster.kubectl import Cluster

_INSIDE = re.compile(r"http://([\w-]+)\.([\w-]+)\.svc(?:\.cluster\.local)?:(\d+)/?")


def required_secret(cluster: Cluster, name: str) -> dict[str, str]:
    """Read the values of a Secret that the steps use.

    Raises:
        UserError: the Secret does not exist.
    """
    found = cluster.secret(KUBEFLOW, name)
    if found is None:
        raise UserError(
            f"there is no Secret {KUBEFLOW}/{name} in {cluster.context}: run "
            "`crossfold cluster up`, or see docs/cluster.md for your own Kubeflow"
        )
    return found


def reach(cluster: Cluster, address: str, stack: contextlib.ExitStack) -> str | None:
    """Forward an in-cluster address until `stack` closes; None if the address is outside."""
    inside = _INSIDE.fullmatch(address)
    if inside is None:
        return None
    service, namespace, port = inside.groups()
    return stack.enter_context(cluster.forwarded(namespace, service, int(port)))
