"""Read a run's steps from the Argo workflow in which Kubeflow Pipelines executes them.

A step is two nodes of the workflow: `…fetch-data-driver` finds the inputs and looks into the cache;
`…fetch-data.executor` does the work, or is skipped if the cache has the outputs. Nodes of a loop's
iteration have `(2:2)` in their names, those of a retry's attempt `(1)`.
"""

import base64
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from crossfold.infra.cluster.kubectl import Object, trouble
from crossfold.tracking import names

_ITERATION = re.compile(r"\((\d+):")
_NUMBERING = re.compile(r"\(\d[^)]*\)")
_EXECUTOR, _DRIVER = "executor", "-driver"
_FAILED = ("Failed", "Error")
_BEFORE = "before "


class State(StrEnum):
    """A step's progress."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    REUSED = "reused"
    FAILED = "failed"


@dataclass(frozen=True)
class Task:
    """A step of a run, or its driver if the driver failed.

    `seconds` is how long the last attempt's container worked. `pod` is its pod ("" before it
    exists), `attempt` its number. `trouble` says why the pod does not start; `message` is Argo's.
    """

    title: str
    state: State
    seconds: float = 0
    pod: str = ""
    trouble: str = ""
    message: str = ""
    is_driver: bool = False
    attempt: int = 1


def tasks(workflow: Object, pods: Sequence[Object]) -> list[Task]:
    """List the steps that have started or came from the cache, in order of time."""
    by_node = {
        pod["metadata"]["annotations"].get("workflows.argoproj.io/node-id"): pod for pod in pods
    }
    grouped: dict[str, list[Object]] = {}
    for node in sorted(_nodes(workflow), key=lambda node: (node["startedAt"], node["name"])):
        path = _NUMBERING.sub("", node["name"]).split(".")
        if path[-1] == _EXECUTOR and len(path) > 1:
            title = names.title(path[-2].replace("-", "_"), _iteration(node["name"]))
            grouped.setdefault(title, []).append(node)
        elif path[-1].endswith(_DRIVER) and node["type"] == "Pod" and node["phase"] in _FAILED:
            name = path[-1].removesuffix(_DRIVER).replace("-", "_")
            title = f"{_BEFORE}{names.title(name, _iteration(node['name']))}"
            grouped.setdefault(title, []).append(node)
    return [_task(title, nodes, by_node) for title, nodes in grouped.items()]


def phase(workflow: Object) -> str:
    """Get the run's phase as Argo names it; empty before Argo has looked at the run."""
    return str(workflow.get("status", {}).get("phase", ""))


def has_ended(workflow: Object) -> bool:
    """Tell whether the run has ended."""
    return phase(workflow) in ("Succeeded", *_FAILED)


def is_terminated(workflow: Object) -> bool:
    """Tell whether somebody terminated the run in Kubeflow, which sets its deadline to 0 s."""
    return bool(workflow.get("spec", {}).get("activeDeadlineSeconds") == 0)


def _nodes(workflow: Object) -> list[Object]:
    status = workflow.get("status", {})
    nodes = status.get("nodes", {})
    if packed := status.get("compressedNodes"):  # if they would be over a megabyte
        nodes = json.loads(gzip.decompress(base64.b64decode(packed)))
    return list(nodes.values())


def _iteration(name: str) -> int | None:
    match = _ITERATION.search(name)
    return int(match[1]) if match else None


def _task(title: str, nodes: Sequence[Object], pods: Mapping[str, Object]) -> Task:
    """Merge the nodes of a step: one for the step, and one for each attempt."""
    attempts = [node for node in nodes if node["type"] == "Pod"]
    last = attempts[-1] if attempts else nodes[-1]
    whole = next((node for node in nodes if node["type"] == "Retry"), last)
    pod = pods.get(last["id"], {})
    return Task(
        title,
        _state(whole, pod),
        _seconds(pod),
        pod.get("metadata", {}).get("name", ""),
        _trouble(pod),
        last.get("message", ""),
        is_driver=title.startswith(_BEFORE),
        attempt=max(1, len(attempts)),
    )


def _state(node: Object, pod: Object) -> State:
    if node["type"] == "Skipped":
        return State.REUSED
    if node["phase"] == "Succeeded":
        return State.DONE
    if node["phase"] in _FAILED:
        return State.FAILED
    running = pod.get("status", {}).get("phase") == "Running"
    return State.RUNNING if running else State.WAITING


def _seconds(pod: Object) -> float:
    for container in pod.get("status", {}).get("containerStatuses", []):
        ended = container["state"].get("terminated")
        if container["name"] == "main" and ended:
            started = datetime.fromisoformat(ended["startedAt"])
            return (datetime.fromisoformat(ended["finishedAt"]) - started).total_seconds()
    return 0


def _trouble(pod: Object) -> str:
    """Explain why a pod does not start; empty if it is only about to."""
    if not pod or pod["status"].get("phase") != "Pending":
        return ""
    why = trouble(pod)
    return "" if why.startswith(("ContainerCreating", "ContainersNotReady", "Pending")) else why
