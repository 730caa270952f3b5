"""Find out which object store a cluster has."""

from crossfold.errors import UserError
from crossfold.infra.object_store import ObjectStore

from .kubectl import Cluster

NAMESPACE = "minio"
LABEL = "crossfold/object-store"  # manifests/versitygw sets it


def choose_store(cluster: Cluster, wanted: ObjectStore | None) -> ObjectStore:
    """Return the cluster's object store: for a new cluster the wanted one, or else MinIO.

    Raises:
        UserError: the cluster has another one, whose data the wanted one could not read.
    """
    namespace = cluster.get("namespace", NAMESPACE)
    if not namespace:
        return wanted or ObjectStore.MINIO
    present = ObjectStore(namespace["metadata"].get("labels", {}).get(LABEL, ObjectStore.MINIO))
    if wanted not in (None, present):
        raise UserError(
            f"{cluster.context} has the object store {present}, and {wanted} can't read its data: "
            f"leave --object-store {wanted} out. docs/object-store.md describes how to move"
        )
    return present
