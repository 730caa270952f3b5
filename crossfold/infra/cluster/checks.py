"""Check kubectl, kind and this machine for common problems before a cluster is created."""

import json
import re
import shutil
from pathlib import Path

from crossfold.errors import UserError
from crossfold.infra import shell
from crossfold.infra.image_build import check_docker
from crossfold.infra.ports import is_free

from .addresses import PORTS

# The kind release that the node image in kind-cluster.yaml comes from.
KIND = (0, 33)
# The first release whose kustomize supports every feature that the manifests use.
KUBECTL = (1, 27)
# Kubernetes requests 0.95 cores, Kubeflow and the services 1.3, a step 1. With fewer than 4 cores,
# manifests/small and the steps request less, which fits into 2.
CORES = 4
MIN_CORES = 2
# Bytes. The memory holds Kubeflow, the services and one step at its limit; the disk holds images
# and volumes.
MEMORY = 8e9
DISK = 20e9
# https://kind.sigs.k8s.io/docs/user/known-issues/#pod-errors-due-to-too-many-open-files
INOTIFY = {"max_user_instances": 512, "max_user_watches": 524288}
PROC = Path("/proc/sys/fs/inotify")


def check_kubectl() -> None:
    """Raise UserError if kubectl is missing or too old, or if git, which it calls, is missing."""
    _require("kubectl", "https://kubernetes.io/docs/tasks/tools/")
    _require("git", "https://git-scm.com/downloads")
    versions = shell.output("kubectl", "version", "--client", "--output=json")
    version = str(json.loads(versions)["clientVersion"]["gitVersion"])
    if _numbers(version) < KUBECTL:
        raise UserError(f"kubectl is {version}: install {_text(KUBECTL)} or later")


def check_machine() -> None:
    """Raise UserError listing every problem if this machine cannot hold a new cluster."""
    problems = [*_cores(), *_memory(), *_disk(), *_inotify(), *_ports()]
    if problems:
        raise UserError("\n  ".join(["this machine cannot run the cluster:", *problems]))


def check_kind() -> None:
    """Raise UserError if Docker is missing or unresponsive, or if kind is missing or too old."""
    check_docker()
    _require("kind", "https://kind.sigs.k8s.io/docs/user/quick-start/#installation")
    version = shell.output("kind", "version")
    if _numbers(version) < KIND:
        raise UserError(
            f"this is {version}, but the node image in kind-cluster.yaml needs "
            f"kind v{_text(KIND)} or later"
        )


def _cores() -> list[str]:
    total = int(_docker_info("{{.NCPU}}"))
    if total >= MIN_CORES:
        return []
    return [
        f"Docker has {total} CPU cores; the cluster needs {MIN_CORES} "
        "(Docker Desktop: Settings, Resources)"
    ]


def _memory() -> list[str]:
    total = int(_docker_info("{{.MemTotal}}"))
    if total >= MEMORY:
        return []
    return [
        f"Docker has {total / 1e9:.1f} GB of memory; the cluster needs {MEMORY / 1e9:.0f} GB "
        "(Docker Desktop: Settings, Resources)"
    ]


def _disk() -> list[str]:
    folder = Path(_docker_info("{{.DockerRootDir}}"))
    if not folder.exists():  # it is inside Docker Desktop's virtual machine
        return []
    free = shutil.disk_usage(folder).free
    if free >= DISK:
        return []
    return [
        f"{folder} has {free / 1e9:.1f} GB free; the cluster needs {DISK / 1e9:.0f} GB "
        "(`docker system df` lists what Docker stores)"
    ]


def _inotify() -> list[str]:
    low = {
        name: least
        for name, least in INOTIFY.items()
        if (PROC / name).exists() and int((PROC / name).read_text()) < least
    }
    if not low:
        return []
    settings = " ".join(f"fs.inotify.{name}={least}" for name, least in low.items())
    return [f"the inotify limits are too low for a cluster's pods: sudo sysctl {settings}"]


def _ports() -> list[str]:
    return [
        f"port {port}, for {what}, is in use by another program. Stop that program "
        "(`crossfold services down` stops the services), or change kind-cluster.yaml"
        for port, what in PORTS.items()
        if not is_free(port)
    ]


def _require(program: str, where: str) -> None:
    if not shutil.which(program):
        raise UserError(f"there is no `{program}` command: install it ({where})")


def _docker_info(layout: str) -> str:
    return shell.output("docker", "info", "--format", layout)


def _numbers(version: str) -> tuple[int, ...]:
    match = re.search(r"v(\d+)\.(\d+)", version)
    if match is None:
        raise UserError(f"cannot read a version from {version!r}")
    return tuple(int(number) for number in match.groups())


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
