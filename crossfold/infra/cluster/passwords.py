"""Create the services' and steps' Secrets with new passwords; keep or repair existing ones."""

import json
import secrets
from collections.abc import Mapping

from crossfold.errors import UserError
from crossfold.infra.messages import Say
from crossfold.infra.secret_names import MLFLOW_SECRET, REMOTE_SECRET
from crossfold.versioning import remotes

from .addresses import KUBEFLOW, MINIO_URI, MLFLOW_PAGE, MLFLOW_URI
from .kubectl import MANAGER, Cluster

EXPERIMENT = "crossfold"
USERS_SECRET = "users"  # the object store's users, in its namespace
USERS = ("mlflow", "pipelines", "dvc", "dvc-reader")


def make_secrets(cluster: Cluster, say: Say) -> None:
    """Create missing Secrets, with new passwords or with those in existing Secrets.

    Raises:
        UserError: data exists, but the Secret with its password is gone.
    """
    _refuse_data_without_password(cluster, "postgres", "data-postgres-0", "postgres")
    _refuse_data_without_password(cluster, KUBEFLOW, "mysql-pv-claim", "mysql-secret")
    for (namespace, name), values in _all_secrets(cluster).items():
        if cluster.secret(namespace, name) is None:
            cluster.kubectl("create", "--filename=-", given=_manifest(namespace, name, values))
            say(f"created the Secret {namespace}/{name}")


def dvc_writer(cluster: Cluster) -> dict[str, str] | None:
    """Read the key that may push to the bucket `dvc`; None if the object store is not ours."""
    users = cluster.secret("minio", USERS_SECRET)
    return _s3_key("dvc", users) if users else None


def _all_secrets(cluster: Cluster) -> dict[tuple[str, str], dict[str, str]]:
    """Build all Secrets' values by namespace and name, from existing Secrets and new passwords."""
    minio = cluster.secret("minio", "minio") or {
        "MINIO_ROOT_USER": "crossfold",
        "MINIO_ROOT_PASSWORD": _password(),
    }
    users = cluster.secret("minio", USERS_SECRET) or {
        password_variable(user): _password() for user in USERS
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
            "secretkey": users[password_variable("pipelines")],
        },
        (KUBEFLOW, "kfp-mlflow-credentials"): {"username": user, "password": password},
        (KUBEFLOW, MLFLOW_SECRET): {
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


def _s3_key(user: str, users: Mapping[str, str]) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": user, "AWS_SECRET_ACCESS_KEY": users[password_variable(user)]}


def password_variable(user: str) -> str:
    """Name the variable in which images/mlflow/buckets.py looks for a user's password."""
    return f"S3_PASSWORD_{user.upper().replace('-', '_')}"


def drop_root_keys(cluster: Cluster, say: Say) -> bool:
    """Remove the object store's root key from the Secrets that an earlier version put it in.

    Return whether any held it; `make_secrets` then creates them again, with a user's key.
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
        if name == "mlflow":  # this Secret holds other passwords too
            keys = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
            patch = json.dumps({"data": keys})
            cluster.kubectl("patch", *where, "--type=merge", f"--patch={patch}")
        else:
            cluster.kubectl("delete", *where)
    return bool(holders)


def _password() -> str:
    return secrets.token_hex(16)


def _manifest(namespace: str, name: str, values: Mapping[str, str]) -> str:
    labels = {"app.kubernetes.io/managed-by": MANAGER}
    metadata = {"namespace": namespace, "name": name, "labels": labels}
    return json.dumps(
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": dict(values)}
    )


def _refuse_data_without_password(
    cluster: Cluster, namespace: str, claim: str, secret: str
) -> None:
    volume = cluster.get("persistentvolumeclaim", claim, f"--namespace={namespace}")
    if volume and cluster.secret(namespace, secret) is None:
        raise UserError(
            f"the Secret {namespace}/{secret} is missing, and the data in {namespace}/{claim} need "
            "its password: restore the Secret, or delete the data: "
            f"kubectl --context {cluster.context} delete namespace {namespace}"
        )
