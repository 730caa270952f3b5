"""Explain why a run on a cluster failed, from the failed step's log."""

import re
from collections.abc import Iterator

from crossfold.errors import UserError
from crossfold.infra.cluster.addresses import KUBEFLOW
from crossfold.infra.cluster.kubectl import Cluster, Object
from crossfold.step.progress import parse_progress

from . import workflow
from .pod_logs import REFUSED
from .workflow import Task

LAST_LINES = 20  # shown from a failed step's log
# A log starts with the step's inputs, which Kubeflow prints as JSON of many lines. The step's own
# code follows, then Argo and Kubeflow.
_INPUTS_END = "}"
_KUBEFLOWS = re.compile(
    r"\[KFP Executor |[IWEF]\d{4} [\d:.]+ +\d+ |time=\S+ level=\S+ .*argo=true|Error: exit status"
)
_FATAL = re.compile(r"[EF]\d{4} [\d:.]+ +\d+ ")
# If the step's own code succeeds, Kubeflow prints its outputs, again as JSON of many lines.
_OUTPUTS = re.compile(r"I\d{4} .*\] ExecutorOutput: \{")
_OUTPUTS_END = "}"
# Kubeflow's fatal error, unless it only repeats the exit status of the step's own code.
_KUBEFLOW_FAILED = re.compile(r"F\d{4} [\d:.]+ +\d+ (?!.*: exit status \d+$)")


def explain_failure(cluster: Cluster, run: Object, failed: list[Task]) -> str:
    """Explain a run's failure from its workflow and the log of the first task that failed."""
    if workflow.is_terminated(run):
        return "the run was terminated"
    if not failed:
        return f"the run ended as {workflow.phase(run)}: {run['status'].get('message', '')}"
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
        text = "\n".join(lines[refused[-1] :]).removeprefix(REFUSED)
        return f"{task.title}: {text}\n{whole}"
    text = "".join(f"\n  {line}" for line in lines[-LAST_LINES:])
    return f"{task.title}: {task.message}{text}\n{whole}"


def last_lines(log: list[str], *, is_driver: bool) -> list[str]:
    """Extract the output of a step's own code, or the fatal errors of a failed driver."""
    if is_driver:
        return [line for line in log if _FATAL.match(line)]
    start = log.index(_INPUTS_END) + 1 if _INPUTS_END in log else 0
    return list(_own_lines(log[start:]))


def _own_lines(log: list[str]) -> Iterator[str]:
    """Yield lines from the step's own code, and Kubeflow's error if Kubeflow itself failed."""
    is_output = False
    for line in log:
        is_output = is_output or _OUTPUTS.fullmatch(line) is not None
        is_noise = is_output or _KUBEFLOWS.match(line) or parse_progress(line)
        if _KUBEFLOW_FAILED.match(line) or not is_noise:
            yield line
        is_output = is_output and line != _OUTPUTS_END
