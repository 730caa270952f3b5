"""Bring the services up on a cluster, stop them, and say how they are (docs/cluster.md)."""

from collections.abc import Iterable, Sequence

from crossfold.errors import UserError
from crossfold.infra import shell
from crossfold.infra.images import MLFLOW, ROOT, registry_name
from crossfold.infra.shell import Say

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
) -> None:
    """Bring up all of it, wait until it works, and say where it is.

    Safe to repeat: what is there stays or is brought up to date, passwords and data are kept.

    Args:
        context: A context of kubectl. If it is `KIND_CONTEXT`, the cluster is made if missing.
        registry: Where to push the images, as in `localhost:5000/team`; None to let kind load them.
        say: Takes lines for the user.
        small: Whether pods request little of the processor; they do so where it has few cores.
        node_image: The image of a new kind cluster's node; None for that of kind-cluster.yaml.

    Raises:
        UserError: something stands in the way, or does not start.
    """
    check_kubectl()
    if context == KIND_CONTEXT:
        cluster, components = start_kind_cluster(say, node_image), ["kind"]
    else:
        cluster, components = _present_cluster(context, registry), []
    _refuse_another_kubeflow(cluster)
    bring_images(cluster, registry, say)
    if small or num_cores(cluster) < CORES:
        say(f"lower requests, for fewer than {CORES} processor cores")
        components.append("small")
    say("rendering the manifests")
    image = registry_name(MLFLOW, registry)
    bring_up(cluster, manifests.render(components, image, ROOT / manifests.RENDERED), say)
    say(_summary(cluster))


def bring_up(cluster: Cluster, objects: Sequence[Object], say: Say) -> None:
    """Bring the cluster to the state that the manifests describe, and wait until all is ready.

    Raises:
        UserError: a password is lost, an object is refused, or a pod does not start.
    """
    say("applying the manifests")
    _apply_first(cluster, objects)
    had_root_key = drop_root_keys(cluster, say)
    make_secrets(cluster, say)
    # A Job cannot be changed.
    cluster.kubectl("delete", "job", "buckets", "--namespace=minio", "--ignore-not-found")
    cluster.apply([found for found in objects if namespace_of(found) != KUBEFLOW])
    wait_until_ready(cluster, SERVICES, say)
    # The buckets are there now: Kubeflow's API server only warns when it finds none.
    cluster.apply([found for found in objects if namespace_of(found) == KUBEFLOW])
    if had_root_key:
        cluster.kubectl("rollout", "restart", "deployment", f"--namespace={KUBEFLOW}")
    wait_until_ready(cluster, (*SERVICES, KUBEFLOW), say)


def is_small(cluster: Cluster) -> bool:
    """Tell whether the cluster was brought up for few cores (manifests/small)."""
    labels = cluster.get("namespace", KUBEFLOW).get("metadata", {}).get("labels", {})
    return bool(labels.get("crossfold/requests") == "small")


def num_cores(cluster: Cluster) -> float:
    """Count the processor cores that the cluster's nodes have for pods."""
    found = [node["status"]["allocatable"]["cpu"] for node in cluster.items("nodes")]
    return sum(int(cpu[:-1]) / 1000 if cpu.endswith("m") else int(cpu) for cpu in found)


def down(context: str, say: Say) -> None:
    """Stop the kind cluster; its data stays.

    Raises:
        UserError: it is another cluster, or there is none.
    """
    if context != KIND_CONTEXT:
        namespaces = " ".join((KUBEFLOW, *reversed(SERVICES)))
        raise UserError(
            f"only the kind cluster can be stopped. To delete what runs in {context}, with all "
            f"data: kubectl --context {context} delete namespace {namespaces}"
        )
    check_kind()
    require_kind_cluster()
    shell.run_visibly("docker", "stop", *kind_nodes())
    say(
        "stopped; `make cluster-up` goes on with the same data. To delete it with all data: "
        f"kind delete cluster --name {KIND_CLUSTER}"
    )


def status(context: str, say: Say) -> bool:
    """Say what runs and what does not; return whether everything is ready.

    Raises:
        UserError: there is no such cluster, or it does not answer.
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
        late = f"not ready: {', '.join(unready)}" if unready else "ready"
        say(f"{namespace}: {late if found else 'nothing is there'}")
    if not ready:
        return False
    say(_summary(cluster))
    return True


def _present_cluster(context: str, registry: str | None) -> Cluster:
    cluster = Cluster(context)
    cluster.check_answers()
    if registry is None and kind_name(cluster) is None:
        raise UserError(
            f"{context} is no kind cluster, so it must pull the images from a registry: "
            "give one (make cluster-up CONTEXT=… IMAGE_REGISTRY=host/path, or --registry)"
        )
    default = "storageclass.kubernetes.io/is-default-class"
    classes = cluster.items("storageclasses")
    if not any(
        found["metadata"].get("annotations", {}).get(default) == "true" for found in classes
    ):
        raise UserError(
            f"{context} has no default StorageClass, and the services need volumes: mark one "
            f"with the annotation {default}=true"
        )
    return cluster


def _refuse_another_kubeflow(cluster: Cluster) -> None:
    found = cluster.get(
        "deployment", "ml-pipeline", f"--namespace={KUBEFLOW}", "--show-managed-fields"
    )
    managers = [part["manager"] for part in found.get("metadata", {}).get("managedFields", [])]
    if found and MANAGER not in managers:
        raise UserError(
            f"{cluster.context} has a Kubeflow Pipelines of its own, which this does not change. "
            "docs/cluster.md says how to run the pipeline there"
        )


def _apply_first(cluster: Cluster, objects: Iterable[Object]) -> None:
    """Make the namespaces and the kinds of objects that all else needs."""
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
            "once these run, each in its own shell:",
            f"  {kubectl} port-forward -n kubeflow service/ml-pipeline-ui {KUBEFLOW_PORT}:80",
            f"  {kubectl} port-forward -n mlflow service/mlflow {MLFLOW_PORT}:5000",
            f"  {kubectl} port-forward -n minio service/minio {S3_PORT}:9000",
        ]
    lines += [
        "The passwords, MLflow's and S3's, are in Secrets:",
        _show(kubectl, "mlflow", "mlflow", "MLFLOW_TRACKING_PASSWORD"),
        _show(kubectl, "minio", USERS_SECRET, password_variable("dvc")),
    ]
    return "\n".join(lines)


def _show(kubectl: str, namespace: str, name: str, key: str) -> str:
    template = f"{{{{.data.{key} | base64decode}}}}"
    return f"  {kubectl} get secret {name} -n {namespace} -o 'go-template={template}'"
