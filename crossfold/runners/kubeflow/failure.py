"""Say why a run on a cluster failed, by the log of the step that did."""

import re
from collections.abc import Iterator

from crossfold.errors import UserError
from crossfold.infra.cluster.addresses import KUBEFLOW
from crossfold.infra.cluster.kubectl import Cluster, Object
from crossfold.step.progress import parse_progress

from . import workflow
from .pod_logs import REFUSED
from .workflow import Task

LAST_LINES = 20  # of a failed step's log
# Kubeflow says a step's inputs first, as JSON of many lines, then comes the step's own code, and
# Argo and Kubeflow have the last words.
_INPUTS_END = "}"
_KUBEFLOWS = re.compile(
    r"\[KFP Executor |[IWEF]\d{4} [\d:.]+ +\d+ |time=\S+ level=\S+ .*argo=true|Error: exit status"
)
_FATAL = re.compile(r"[EF]\d{4} [\d:.]+ +\d+ ")
# What the step gave, again as JSON of many lines, when its own code has ended well.
_OUTPUTS = re.compile(r"I\d{4} .*\] ExecutorOutput: \{")
_OUTPUTS_END = "}"
# Kubeflow's last word, unless it only repeats the step's own exit status.
_KUBEFLOW_FAILED = re.compile(r"F\d{4} [\d:.]+ +\d+ (?!.*: exit status \d+$)")


def explain_failure(cluster: Cluster, found: Object, failed: list[Task]) -> str:
    """Say why a run failed, by its workflow and by the log of the first task that failed."""
    if workflow.is_terminated(found):
        return "the run was terminated"
    if not failed:
        return f"the run ended as {workflow.phase(found)}: {found['status'].get('message', '')}"
    task = failed[0]
    if not task.pod:
        return f"{task.title}: {task.message}"
    where = (task.pod, f"--namespace={KUBEFLOW}", "--container=main")
    try:
        log = cluster.kubectl("logs", *where, "--tail=1000").splitlines()
    except UserError as error:
        return f"{task.title}: {task.message}\n{error}"
    whole = f"The step's whole log: kubectl --context {cluster.context} logs {' '.join(where)}"
    lines = last_lines(log, is_driver=task.is_driver)
    if refused := [n for n, line in enumerate(lines) if line.startswith(REFUSED)]:
        said = "\n".join(lines[refused[-1] :]).removeprefix(REFUSED)
        return f"{task.title}: {said}\n{whole}"
    said = "".join(f"\n  {line}" for line in lines[-LAST_LINES:])
    return f"{task.title}: {task.message}{said}\n{whole}"


def last_lines(log: list[str], *, is_driver: bool) -> list[str]:
    """Return what a step's own code has said, or why a driver failed, without all the rest."""
    if is_driver:
        return [line for line in log if _FATAL.match(line)]
    start = log.index(_INPUTS_END) + 1 if _INPUTS_END in log else 0
    return list(_telling(log[start:]))


def _telling(log: list[str]) -> Iterator[str]:
    """Yield the lines of the step's own code, and Kubeflow's where it is what has failed."""
    is_output = False
    for line in log:
        is_output = is_output or _OUTPUTS.fullmatch(line) is not None
        is_noise = is_output or _KUBEFLOWS.match(line) or parse_progress(line)
        if _KUBEFLOW_FAILED.match(line) or not is_noise:
            yield line
        is_output = is_output and line != _OUTPUTS_END
