"""Schedule runs on a cluster, each with the data that a branch has at that time.

Kubeflow's recurring runs repeat one set of parameters, and with its MLflow plugin they lose even
those (Kubeflow Pipelines 2.17.0). So a CronJob starts the runs.
"""

import json
import re
from pathlib import Path

from crossfold.errors import UserError
from crossfold.infra import shell
from crossfold.infra.cluster.addresses import KUBEFLOW
from crossfold.infra.cluster.checks import check_kubectl
from crossfold.infra.cluster.image_delivery import bring_images
from crossfold.infra.cluster.kubectl import Cluster, Object
from crossfold.infra.cluster.lifecycle import is_small
from crossfold.infra.image_tags import DATA, registry_name
from crossfold.runners.display import Display
from crossfold.runners.pre_run_checks import check_model
from crossfold.settings import Settings
from pipelines.resources import USER

from . import api
from .submission import upload

NAME = "crossfold-schedule"
GIT_SECRET = "crossfold-git"
_PROGRAM = Path(__file__).with_name("scheduled_start.py")
_SSH = re.compile(r"(?:ssh://)?git@([\w.-]+)[:/](.+)")


def schedule(
    root: Path,
    settings: Settings,
    display: Display,
    *,
    cron: str,
    branch: str,
    repository: str | None,
    context: str,
    registry: str | None,
) -> None:
    """Schedule runs with the present code and settings and, at each start, a branch's data.

    Args:
        root: The project's folder.
        settings: Settings from params.yaml.
        display: Prints lines for the user.
        cron: The times in cron syntax, in UTC.
        branch: The branch whose data.dvc and models.dvc are read at each start.
        repository: The git repository's address; None for that of the remote `origin`.
        context: A kubectl context.
        registry: Where the cluster pulls the images from; None if it has them or kind loads them.

    Raises:
        UserError: a precondition fails; the schedule is unchanged.
    """
    check_kubectl()
    cluster = Cluster(context)
    cluster.check_answers()
    address = _https(repository or _origin(root))
    _check_branch(root, repository or "origin", branch)
    image = registry_name(DATA, registry)
    cluster.apply([_cron_job(cron, image, {})], "--dry-run=server")
    bring_images(cluster, registry, display.say)
    model = check_model(root, settings)
    with api.connected(cluster) as client:
        version, parameters = upload(
            client,
            root,
            settings,
            model,
            registry,
            caching=True,
            small=is_small(cluster),
            present_data=False,
        )
    environment = {
        "REPOSITORY": address,
        "BRANCH": branch,
        "KUBEFLOW": "http://ml-pipeline:8888",
        "RUN": json.dumps(api.run_of(version, parameters)),
    }
    cluster.apply([_program(), _cron_job(cron, image, environment)])
    kubectl = f"kubectl --context {context} --namespace {KUBEFLOW}"
    display.say(f"scheduled at '{cron}' (UTC) with the data of branch {branch} of {address}")
    display.say(f"start a run: {kubectl} create job --from=cronjob/{NAME} {NAME}-now")
    display.say(f"see its log: {kubectl} logs -l app.kubernetes.io/name={NAME}")
    display.say(f"delete it:   {kubectl} delete cronjob {NAME}")


def _origin(root: Path) -> str:
    if "origin" not in shell.git(root, "remote").split():
        raise UserError("this folder has no git remote `origin`: pass --repository")
    return shell.git(root, "remote", "get-url", "origin")


def _https(address: str) -> str:
    """Convert a repository's address to one that a pod, which has no ssh, can fetch from."""
    ssh = _SSH.fullmatch(address)
    url = f"https://{ssh[1]}/{ssh[2]}" if ssh else address
    if not url.startswith(("https://", "http://", "git://")):
        raise UserError(f"a pod cannot fetch from {address}: give an https address")
    return url


def _check_branch(root: Path, repository: str, branch: str) -> None:
    if not shell.git(root, "ls-remote", "--heads", repository, f"refs/heads/{branch}"):
        raise UserError(f"there is no branch {branch} in {repository}")


def _metadata() -> Object:
    return {"name": NAME, "namespace": KUBEFLOW, "labels": {"app.kubernetes.io/name": NAME}}


def _program() -> Object:
    data = {_PROGRAM.name: _PROGRAM.read_text()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(), "data": data}


def _cron_job(cron: str, image: str, environment: dict[str, str]) -> Object:
    login = [
        {
            "name": f"GIT_{key.upper()}",
            "valueFrom": {"secretKeyRef": {"name": GIT_SECRET, "key": key, "optional": True}},
        }
        for key in ("username", "password")
    ]
    container = {
        "name": "start",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", f"/program/{_PROGRAM.name}"],
        "env": [*({"name": name, "value": value} for name, value in environment.items()), *login],
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"cpu": "1", "memory": "512Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "program", "mountPath": "/program", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "program", "configMap": {"name": NAME}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
        ],
    }
    labels = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": "crossfold"}
    job = {
        "backoffLimit": 2,
        "activeDeadlineSeconds": 600,
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": _metadata(),
        "spec": {
            "schedule": cron,
            "timeZone": "Etc/UTC",
            "concurrencyPolicy": "Forbid",
            "jobTemplate": {"spec": job},
        },
    }
