"""Start and stop the services on a cluster, and report their status (docs/cluster.md)."""

from collections.abc import Iterable, Sequence

from crossfold.errors import UserError
from crossfold.infra import shell
from crossfold.infra.image_tags import MLFLOW, ROOT, registry_name
from crossfold.infra.messages import Say
from crossfold.infra.object_store import ObjectStore

from . import manifests
from .addresses import (
    KUBEFLOW,
    KUBEFLOW_PAGE,
    KUBEFLOW_PORT,
    MLFLOW_PAGE,
    MLFLOW_PORT,
    S3_PORT,
    SERVICES,
)
from .backup.writers import refuse_half_restored
from .checks import CORES, check_kind, check_kubectl
from .image_delivery import bring_images
from .kind import (
    KIND_CLUSTER,
    KIND_CONTEXT,
    kind_name,
    kind_nodes,
    require_kind_cluster,
    start_kind_cluster,
)
from .kubectl import MANAGER, Cluster, Object, namespace_of
from .mlflow_stop import stop_other_mlflow
from .object_store import choose_store
from .passwords import USERS_SECRET, drop_root_keys, make_secrets, password_variable
from .readiness import is_ready, qualified_names, wait_until_ready, workloads

DEFINITION = "CustomResourceDefinition"


def up(
    context: str,
    registry: str | None,
    say: Say,
    *,
    small: bool = False,
    node_image: str | None = None,
    object_store: ObjectStore | None = None,
) -> None:
    """Bring up everything on a cluster, wait until it works, and print its addresses.

    Safe to repeat: existing objects stay or are updated; passwords and data are kept.

    Args:
        context: A kubectl context. For `KIND_CONTEXT`, the cluster is created if missing.
        registry: Where to push the images, such as `localhost:5000/team`; None to load them with
            kind.
        say: Prints a line for the user.
        small: Whether pods request less CPU; on a cluster with few cores they always do.
        node_image: The node image for a new kind cluster; None for the one in kind-cluster.yaml.
        object_store: The object store of a new cluster; None for the present one, or else MinIO.

    Raises:
        UserError: a precondition fails, or a service does not start.
    """
    check_kubectl()
    if context == KIND_CONTEXT:
        cluster, components = start_kind_cluster(say, node_image), ["kind"]
    else:
        cluster, components = _present_cluster(context, registry), []
    _refuse_another_kubeflow(cluster)
    if choose_store(cluster, object_store) is ObjectStore.VERSITYGW:
        components.append(ObjectStore.VERSITYGW)
    bring_images(cluster, registry, say)
    if small or num_cores(cluster) < CORES:
        say(f"lowering CPU requests, for fewer than {CORES} cores")
        components.append("small")
    say("rendering the manifests")
    image = registry_name(MLFLOW, registry)
    bring_up(cluster, manifests.render(components, image, ROOT / manifests.RENDERED), say)
    say(_summary(cluster))


def bring_up(cluster: Cluster, objects: Sequence[Object], say: Say) -> None:
    """Apply the manifests, create the Secrets, and wait until every workload is ready.

    Raises:
        UserError: a password is lost, an object is refused, a pod does not start, or a restore was
            killed.
    """
    refuse_half_restored(cluster)
    say("applying the manifests")
    _apply_first(cluster, objects)
    had_root_key = drop_root_keys(cluster, say)
    make_secrets(cluster, say)
    # Kubernetes cannot update a Job, so delete it and create it again.
    cluster.kubectl("delete", "job", "buckets", "--namespace=minio", "--ignore-not-found")
    stop_other_mlflow(cluster, objects, say)
    cluster.apply([found for found in objects if namespace_of(found) != KUBEFLOW])
    wait_until_ready(cluster, SERVICES, say)
    # Kubeflow starts after the buckets exist: its API server only warns if they are missing.
    cluster.apply([found for found in objects if namespace_of(found) == KUBEFLOW])
    if had_root_key:
        cluster.kubectl("rollout", "restart", "deployment", f"--namespace={KUBEFLOW}")
    wait_until_ready(cluster, (*SERVICES, KUBEFLOW), say)


def is_small(cluster: Cluster) -> bool:
    """Tell whether the cluster was brought up for few cores (manifests/small)."""
    labels = cluster.get("namespace", KUBEFLOW).get("metadata", {}).get("labels", {})
    return bool(labels.get("crossfold/requests") == "small")


def num_cores(cluster: Cluster) -> float:
    """Add up the CPU cores that the cluster's nodes offer to pods."""
    found = [node["status"]["allocatable"]["cpu"] for node in cluster.items("nodes")]
    return sum(int(cpu[:-1]) / 1000 if cpu.endswith("m") else int(cpu) for cpu in found)


def down(context: str, say: Say) -> None:
    """Stop the kind cluster; its data stays.

    Raises:
        UserError: the context is another cluster's, or the kind cluster does not exist.
    """
    if context != KIND_CONTEXT:
        namespaces = " ".join((KUBEFLOW, *reversed(SERVICES)))
        raise UserError(
            f"{context} is not the kind cluster, and only that can be stopped. To delete the "
            f"services there with all data: kubectl --context {context} delete namespace "
            f"{namespaces}"
        )
    check_kind()
    require_kind_cluster()
    shell.run_visibly("docker", "stop", *kind_nodes())
    say(
        "stopped. `crossfold cluster up` starts it with the same data. To delete it with all data: "
        f"kind delete cluster --name {KIND_CLUSTER}"
    )


def status(context: str, say: Say) -> bool:
    """Print for each namespace whether it is ready, and return whether all are.

    Raises:
        UserError: the cluster does not exist, or does not respond.
    """
    check_kubectl()
    if context == KIND_CONTEXT:
        check_kind()
        require_kind_cluster()
    cluster = Cluster(context)
    cluster.check_answers()
    ready = True
    for namespace in (*SERVICES, KUBEFLOW):
        found = workloads(cluster, (namespace,))
        unready = qualified_names(item for item in found if not is_ready(item))
        ready &= bool(found) and not unready
        state = f"not ready: {', '.join(unready)}" if unready else "ready"
        say(f"{namespace}: {state if found else 'not installed'}")
    if not ready:
        return False
    say(_summary(cluster))
    return True


def _present_cluster(context: str, registry: str | None) -> Cluster:
    cluster = Cluster(context)
    cluster.check_answers()
    if registry is None and kind_name(cluster) is None:
        raise UserError(
            f"{context} is not a kind cluster on this machine, so it must pull the images from a "
            "registry: name one with --registry HOST/PATH"
        )
    default = "storageclass.kubernetes.io/is-default-class"
    classes = cluster.items("storageclasses")
    if not any(
        found["metadata"].get("annotations", {}).get(default) == "true" for found in classes
    ):
        raise UserError(
            f"{context} has no default StorageClass, which the services need for their volumes: "
            f"annotate one with {default}=true"
        )
    return cluster


def _refuse_another_kubeflow(cluster: Cluster) -> None:
    found = cluster.get(
        "deployment", "ml-pipeline", f"--namespace={KUBEFLOW}", "--show-managed-fields"
    )
    managers = [part["manager"] for part in found.get("metadata", {}).get("managedFields", [])]
    if found and MANAGER not in managers:
        raise UserError(
            f"{cluster.context} already has Kubeflow Pipelines. Crossfold did not install it and "
            "does not change it. docs/cluster.md describes how to run the pipeline there"
        )


def _apply_first(cluster: Cluster, objects: Iterable[Object]) -> None:
    """Apply namespaces and custom resource definitions, which all other objects depend on."""
    first = [found for found in objects if found["kind"] in ("Namespace", DEFINITION)]
    cluster.apply(first)
    kinds = [f"crd/{found['metadata']['name']}" for found in first if found["kind"] == DEFINITION]
    if kinds:
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", *kinds)


def _summary(cluster: Cluster) -> str:
    kubectl = f"kubectl --context {cluster.context}"
    lines = [
        f"Kubeflow: {KUBEFLOW_PAGE}",
        f"MLflow:   {MLFLOW_PAGE}, user pipeline",
        f"S3:       http://localhost:{S3_PORT}, bucket dvc, user dvc",
    ]
    if cluster.context != KIND_CONTEXT:
        lines += [
            "after you start these, each in its own shell:",
            f"  {kubectl} port-forward -n kubeflow service/ml-pipeline-ui {KUBEFLOW_PORT}:80",
            f"  {kubectl} port-forward -n mlflow service/mlflow {MLFLOW_PORT}:5000",
            f"  {kubectl} port-forward -n minio service/minio {S3_PORT}:9000",
        ]
    lines += [
        "The passwords of MLflow and S3 are in Secrets:",
        _show(kubectl, "mlflow", "mlflow", "MLFLOW_TRACKING_PASSWORD"),
        _show(kubectl, "minio", USERS_SECRET, password_variable("dvc")),
    ]
    return "\n".join(lines)


def _show(kubectl: str, namespace: str, name: str, key: str) -> str:
    template = f"{{{{.data.{key} | base64decode}}}}"
    return f"  {kubectl} get secret {name} -n {namespace} -o 'go-template={template}'"
