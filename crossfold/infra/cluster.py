"""Kubeflow Pipelines, MLflow, PostgreSQL and MinIO on Kubernetes (manifests/, docs/cluster.md)."""

import json
import secrets
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from crossfold.data import remotes
from crossfold.errors import UserError
from crossfold.infra.secrets import REMOTE_SECRET

from . import manifests, shell
from .cluster_checks import CORES, PORTS, check_kind, check_kubectl, check_machine
from .image_build import build_images
from .images import MLFLOW, ROLES, ROOT, image_name, registry_name
from .kubectl import MANAGER, Cluster, Object, trouble

KIND_CLUSTER = "crossfold"  # as kind-cluster.yaml says
KIND_CONTEXT = f"kind-{KIND_CLUSTER}"
SERVICES = ("minio", "postgres", "mlflow")  # namespaces
KUBEFLOW = "kubeflow"
MLFLOW_URI = "http://mlflow.mlflow.svc.cluster.local:5000"
MINIO_URI = "http://minio.minio.svc.cluster.local:9000"
EXPERIMENT = "crossfold"
USERS_SECRET = "users"  # of the object store, in its namespace
DEFINITION = "CustomResourceDefinition"
_KUBEFLOW_PORT, _MLFLOW_PORT, _S3_PORT = PORTS
KUBEFLOW_PAGE = f"http://localhost:{_KUBEFLOW_PORT}"
MLFLOW_PAGE = f"http://localhost:{_MLFLOW_PORT}"

PATIENCE = 900  # seconds in which nothing more becomes ready

Say = Callable[[str], None]


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
    had_root_key = _drop_root_keys(cluster, say)
    make_secrets(cluster, say)
    # A Job cannot be changed.
    cluster.kubectl("delete", "job", "buckets", "--namespace=minio", "--ignore-not-found")
    cluster.apply([found for found in objects if _namespace(found) != KUBEFLOW])
    _wait(cluster, SERVICES, say)
    # The buckets are there now: Kubeflow's API server only warns when it finds none.
    cluster.apply([found for found in objects if _namespace(found) == KUBEFLOW])
    if had_root_key:
        cluster.kubectl("rollout", "restart", "deployment", f"--namespace={KUBEFLOW}")
    _wait(cluster, (*SERVICES, KUBEFLOW), say)


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
    _require_kind_cluster()
    _run("docker", "stop", *_kind_nodes())
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
        _require_kind_cluster()
    cluster = Cluster(context)
    cluster.check_answers()
    ready = True
    for namespace in (*SERVICES, KUBEFLOW):
        found = _workloads(cluster, (namespace,))
        unready = _names(item for item in found if not _is_ready(item))
        ready &= bool(found) and not unready
        late = f"not ready: {', '.join(unready)}" if unready else "ready"
        say(f"{namespace}: {late if found else 'nothing is there'}")
    if not ready:
        return False
    say(_summary(cluster))
    return True


def make_secrets(cluster: Cluster, say: Say) -> None:
    """Make the Secrets that are missing, with new passwords, or with those of the others.

    Raises:
        UserError: data are there whose password is not.
    """
    _refuse_data_without_password(cluster, "postgres", "data-postgres-0", "postgres")
    _refuse_data_without_password(cluster, KUBEFLOW, "mysql-pv-claim", "mysql-secret")
    for (namespace, name), values in _secrets(cluster).items():
        if cluster.secret(namespace, name) is None:
            cluster.kubectl("create", "--filename=-", given=_secret(namespace, name, values))
            say(f"made the Secret {namespace}/{name}")


def bring_images(cluster: Cluster, registry: str | None, say: Say) -> None:
    """Build the steps' and the server's images where they have changed, and take them there.

    Without a registry kind loads them; another cluster must have them by other means.

    Raises:
        UserError: they cannot be built, pushed or loaded.
    """
    kind = _kind_name(cluster)
    if registry is None and kind is None:
        return
    build_images(None, None, say)
    for role in ROLES:
        if registry:
            remote = registry_name(role, registry)
            _run("docker", "tag", image_name(role), remote)
            _run("docker", "push", "--quiet", remote)
        elif kind:
            load_image(kind, image_name(role), say)


def load_image(kind: str, image: str, say: Say) -> None:
    """Copy an image of Docker's into a kind cluster's nodes, unless they have it.

    Raises:
        UserError: kind cannot load it.
    """
    size = int(_output("docker", "image", "inspect", "--format={{.Size}}", image))
    say(f"loading {image}, {size / 1e9:.1f} GB")
    start = time.monotonic()
    _run("kind", "load", "docker-image", f"--name={kind}", image)
    say(f"loaded {image} in {time.monotonic() - start:.0f} s")


def _secrets(cluster: Cluster) -> dict[tuple[str, str], dict[str, str]]:
    """Return what all Secrets hold or shall hold, from those that are there and new passwords."""
    minio = cluster.secret("minio", "minio") or {
        "MINIO_ROOT_USER": "crossfold",
        "MINIO_ROOT_PASSWORD": _password(),
    }
    users = cluster.secret("minio", USERS_SECRET) or {
        _password_of(user): _password() for user in ("mlflow", "pipelines", "dvc", "dvc-reader")
    }
    postgres = cluster.secret("postgres", "postgres") or {"POSTGRES_PASSWORD": _password()}
    mlflow = cluster.secret("mlflow", "mlflow") or {
        "PGPASSWORD": postgres["POSTGRES_PASSWORD"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": _password(),
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": _password(),
        "MLFLOW_TRACKING_USERNAME": "pipeline",
        "MLFLOW_TRACKING_PASSWORD": _password(),
    }
    user, password = (mlflow[f"MLFLOW_TRACKING_{part}"] for part in ("USERNAME", "PASSWORD"))
    remote = {"url": "s3://dvc", "endpointurl": MINIO_URI}
    return {
        ("minio", "minio"): minio,
        ("minio", USERS_SECRET): users,
        ("postgres", "postgres"): postgres,
        ("mlflow", "mlflow"): mlflow,
        ("mlflow", "s3"): _s3_key("mlflow", users),
        (KUBEFLOW, "mysql-secret"): {"username": "root", "password": _password()},
        (KUBEFLOW, "ml-pipeline-ui"): {"TENSORBOARD_PROXY_SIGNING_SECRET": _password()},
        (KUBEFLOW, "mlpipeline-minio-artifact"): {
            "accesskey": "pipelines",
            "secretkey": users[_password_of("pipelines")],
        },
        (KUBEFLOW, "kfp-mlflow-credentials"): {"username": user, "password": password},
        (KUBEFLOW, "crossfold-mlflow"): {
            "MLFLOW_TRACKING_URI": MLFLOW_URI,
            "MLFLOW_EXPERIMENT_NAME": EXPERIMENT,
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": password,
            "MLFLOW_PAGES": MLFLOW_PAGE,
        },
        (KUBEFLOW, REMOTE_SECRET): {
            remotes.REMOTE: json.dumps(remote),
            **_s3_key("dvc-reader", users),
        },
    }


def dvc_writer(cluster: Cluster) -> dict[str, str] | None:
    """Return the key that may push to the bucket `dvc`; None where it is not our object store."""
    users = cluster.secret("minio", USERS_SECRET)
    return _s3_key("dvc", users) if users else None


def _s3_key(user: str, users: Mapping[str, str]) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": user, "AWS_SECRET_ACCESS_KEY": users[_password_of(user)]}


def _password_of(user: str) -> str:
    """Return the variable in which images/mlflow/buckets.py looks for a user's password."""
    return f"S3_PASSWORD_{user.upper().replace('-', '_')}"


def _drop_root_keys(cluster: Cluster, say: Say) -> bool:
    """Remove the object store's root key from Secrets other than its own, where it was once.

    Returns whether there were any; `make_secrets` makes them again, with a user's key.
    """
    root = (cluster.secret("minio", "minio") or {}).get("MINIO_ROOT_PASSWORD")
    holders = [
        (namespace, name)
        for namespace, name in (
            ("mlflow", "mlflow"),
            (KUBEFLOW, "mlpipeline-minio-artifact"),
            (KUBEFLOW, REMOTE_SECRET),
        )
        if root in (cluster.secret(namespace, name) or {}).values()
    ]
    for namespace, name in holders:
        say(f"removed the object store's root key from the Secret {namespace}/{name}")
        where = ("secret", name, f"--namespace={namespace}")
        if name == "mlflow":  # holds other passwords too
            keys = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
            patch = json.dumps({"data": keys})
            cluster.kubectl("patch", *where, "--type=merge", f"--patch={patch}")
        else:
            cluster.kubectl("delete", *where)
    return bool(holders)


def _password() -> str:
    return secrets.token_hex(16)


def _secret(namespace: str, name: str, values: Mapping[str, str]) -> str:
    labels = {"app.kubernetes.io/managed-by": MANAGER}
    metadata = {"namespace": namespace, "name": name, "labels": labels}
    return json.dumps(
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": dict(values)}
    )


def _refuse_data_without_password(
    cluster: Cluster, namespace: str, claim: str, secret: str
) -> None:
    there = cluster.get("persistentvolumeclaim", claim, f"--namespace={namespace}")
    if there and cluster.secret(namespace, secret) is None:
        raise UserError(
            f"the Secret {namespace}/{secret} is gone, and the data of "
            f"{namespace}/{claim} need its password: put it back, or delete the data: "
            f"kubectl --context {cluster.context} delete namespace {namespace}"
        )


def start_kind_cluster(say: Say, node_image: str | None = None) -> Cluster:
    """Start the cluster of kind-cluster.yaml; create it if there is none.

    Raises:
        UserError: a program is missing, or the machine cannot hold the cluster.
    """
    check_kind()
    cluster = Cluster(KIND_CONTEXT)
    if KIND_CLUSTER not in _kind_clusters():
        check_machine()
        say("creating the kind cluster: some minutes the first time")
        image = [f"--image={node_image}"] if node_image else []
        config = f"--config={ROOT / 'kind-cluster.yaml'}"
        _run("kind", "create", "cluster", config, "--wait=5m", *image)
    else:
        _run("docker", "start", *_kind_nodes())
        _run("kind", "export", "kubeconfig", f"--name={KIND_CLUSTER}")
    cluster.check_answers(seconds=120)
    return cluster


def _present_cluster(context: str, registry: str | None) -> Cluster:
    cluster = Cluster(context)
    cluster.check_answers()
    if registry is None and _kind_name(cluster) is None:
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


def _wait(cluster: Cluster, namespaces: Sequence[str], say: Say) -> None:
    before: list[str] = []
    deadline = time.monotonic() + PATIENCE
    while unready := _unready(cluster, namespaces):
        if unready != before:
            say(f"waiting for {', '.join(unready)}")
            before = unready
            deadline = time.monotonic() + PATIENCE
        if time.monotonic() > deadline:
            raise UserError(_complaint(cluster, unready))
        time.sleep(3)


def _unready(cluster: Cluster, namespaces: Sequence[str]) -> list[str]:
    return _names(item for item in _workloads(cluster, namespaces) if not _is_ready(item))


def _workloads(cluster: Cluster, namespaces: Sequence[str]) -> list[Object]:
    found = cluster.items("deployments,statefulsets,jobs", "--all-namespaces")
    return [item for item in found if _namespace(item) in namespaces]


def _names(objects: Iterable[Object]) -> list[str]:
    """Return names as in mlflow/mlflow, sorted."""
    return sorted(f"{_namespace(found)}/{found['metadata']['name']}" for found in objects)


def _is_ready(item: Object) -> bool:
    state = item.get("status", {})
    if item["kind"] == "Job":
        return bool(state.get("succeeded"))
    wanted = item["spec"]["replicas"]
    seen = state.get("observedGeneration", 0) >= item["metadata"]["generation"]
    counts = ("replicas", "updatedReplicas", "availableReplicas")
    return seen and all(state.get(count, 0) == wanted for count in counts)


def _complaint(cluster: Cluster, unready: Sequence[str]) -> str:
    lines = [f"not ready after {PATIENCE // 60} minutes without progress: {', '.join(unready)}"]
    for namespace in sorted({name.split("/")[0] for name in unready}):
        lines += [
            f"  {namespace}/{pod['metadata']['name']}: {why}"
            for pod in cluster.items("pods", f"--namespace={namespace}")
            if (why := trouble(pod))
        ]
    lines.append(f"Look closer: kubectl --context {cluster.context} describe pod NAME -n NAMESPACE")
    return "\n".join(lines)


def _summary(cluster: Cluster) -> str:
    kubectl = f"kubectl --context {cluster.context}"
    lines = [
        f"Kubeflow: {KUBEFLOW_PAGE}",
        f"MLflow:   {MLFLOW_PAGE}, user pipeline",
        f"S3:       http://localhost:{_S3_PORT}, bucket dvc, user dvc",
    ]
    if cluster.context != KIND_CONTEXT:
        lines += [
            "once these run, each in its own shell:",
            f"  {kubectl} port-forward -n kubeflow service/ml-pipeline-ui {_KUBEFLOW_PORT}:80",
            f"  {kubectl} port-forward -n mlflow service/mlflow {_MLFLOW_PORT}:5000",
            f"  {kubectl} port-forward -n minio service/minio {_S3_PORT}:9000",
        ]
    lines += [
        "The passwords, MLflow's and S3's, are in Secrets:",
        _show(kubectl, "mlflow", "mlflow", "MLFLOW_TRACKING_PASSWORD"),
        _show(kubectl, "minio", USERS_SECRET, _password_of("dvc")),
    ]
    return "\n".join(lines)


def _show(kubectl: str, namespace: str, name: str, key: str) -> str:
    template = f"{{{{.data.{key} | base64decode}}}}"
    return f"  {kubectl} get secret {name} -n {namespace} -o 'go-template={template}'"


def _kind_name(cluster: Cluster) -> str | None:
    """Return the name by which kind on this machine knows the cluster, or None."""
    name = cluster.context.removeprefix("kind-")
    if name == cluster.context:
        return None
    check_kind()
    return name if name in _kind_clusters() else None


def _kind_clusters() -> list[str]:
    return _output("kind", "get", "clusters").split()


def _kind_nodes() -> list[str]:
    return _output("kind", "get", "nodes", f"--name={KIND_CLUSTER}").split()


def _require_kind_cluster() -> None:
    if KIND_CLUSTER not in _kind_clusters():
        raise UserError("there is no cluster yet: make cluster-up")


def _namespace(found: Object) -> str:
    return str(found["metadata"].get("namespace", ""))


def _run(*command: str) -> None:
    """Run a command before the user's eyes."""
    if subprocess.run(command, env=shell.environment(), check=False).returncode != 0:
        raise UserError(f"`{' '.join(command)}` failed: see what it said above")


def _output(*command: str) -> str:
    done = subprocess.run(
        command, env=shell.environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise UserError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout.strip()
