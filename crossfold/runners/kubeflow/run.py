"""A run on Kubernetes from start to end: checks, data, submission, watching, what it leaves.

Kubeflow Pipelines is asked to run the pipeline, and its workflow is watched by kubectl: Kubeflow's
own list of a run's steps does not say which of them came from the cache, or where.
"""

import contextlib
import json
import os
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException

from crossfold.data import dvc, remotes
from crossfold.errors import UserError
from crossfold.infra.cluster import KUBEFLOW, KUBEFLOW_PAGE, bring_images, dvc_writer, is_small
from crossfold.infra.cluster_checks import check_kubectl
from crossfold.infra.images import registry_name
from crossfold.infra.kubectl import Cluster, Object
from crossfold.infra.secrets import MLFLOW_SECRET, REMOTE_SECRET
from crossfold.records import Evaluation, Leaderboard, Registration
from crossfold.runners.display import Display
from crossfold.runners.failures import StepError, signals_interrupt
from crossfold.runners.lineage import CLUSTER, lineage
from crossfold.runners.local.run import check_pointers
from crossfold.runners.model_check import check_model
from crossfold.runners.outcome import Outcome
from crossfold.settings import Settings
from crossfold.step.progress import parse_progress
from crossfold.tracking import runs, store
from pipelines.arguments import arguments
from pipelines.compilation import compile_pipeline

from . import api, workflow
from .pod_logs import REFUSED, Follower
from .workflow import State, Task

if TYPE_CHECKING:
    import kfp

INTERVAL = 2  # seconds between two looks at a run
PATIENCE = 300  # seconds without an answer from the cluster
LAST_LINES = 20  # of a failed step's log
_INSIDE = re.compile(r"http://([\w-]+)\.([\w-]+)\.svc(?:\.cluster\.local)?:(\d+)/?")
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


class _SilenceError(StepError):
    """The cluster does not answer, while the run may go on."""


def run_on_cluster(
    root: Path,
    settings: Settings,
    display: Display,
    *,
    context: str,
    registry: str | None,
    caching: bool,
    record: bool,
) -> Outcome:
    """Bring data and images to the cluster, submit the pipeline, and watch it to its end.

    Args:
        root: The project's folder.
        settings: params.yaml.
        display: Shows the steps.
        context: A context of kubectl.
        registry: Where the cluster pulls the images from; None: they are, or kind loads them.
        caching: Whether steps may be answered from Kubeflow's cache.
        record: Whether to write what git and DVC compare.

    Raises:
        UserError: something stands in the way; nothing has been submitted.
        StepError: the run failed, or the cluster is silent.
        Interrupted: a signal ended the command; a run that was submitted goes on.
    """
    check_kubectl()
    cluster = Cluster(context)
    cluster.check_answers()
    check_pointers(root)
    notes = check_model(root, settings)
    for note in notes:
        display.warn(note)
    unsure = f"not watched; a run that is submitted by now goes on: {KUBEFLOW_PAGE}/#/runs"
    with signals_interrupt(unsure):
        run_id = _start(cluster, root, settings, display, registry, caching=caching)
    url = f"{KUBEFLOW_PAGE}/#/runs/details/{run_id}"
    display.say(f"run {run_id}: {url}")
    ended = f"no longer watched; the run goes on: {url}"
    try:
        with display, signals_interrupt(ended):
            steps = _watch(cluster, run_id, display)
    except _SilenceError:
        raise  # nobody knows whether it has ended
    except StepError:
        # Kubeflow's plugin ends what it has opened, and nobody the run that a step opened.
        with (
            signals_interrupt(f"the run has failed: {url}"),
            store.best_effort(),
            _mlflow(cluster),
        ):
            runs.end_parent(run_id, "FAILED")
        raise
    with signals_interrupt(f"the run succeeded: {url}"):
        try:
            outcome = _outcome(cluster, run_id, url, steps)
        except UserError as error:
            raise StepError(f"the run succeeded, but its outcome cannot be read: {error}") from None
    outcome.write_reports(root, record=record)
    return replace(outcome, notes=notes)


def _start(
    cluster: Cluster,
    root: Path,
    settings: Settings,
    display: Display,
    registry: str | None,
    *,
    caching: bool,
) -> str:
    """Submit the pipeline, and return the run's id."""
    with api.connected(cluster) as client:
        bring_images(cluster, registry, display.say)
        _push_data(cluster, root, display)
        version, parameters = upload(
            client, root, settings, registry, caching=caching, small=is_small(cluster)
        )
        return api.start(client, version, parameters)


def upload(
    client: "kfp.Client",
    root: Path,
    settings: Settings,
    registry: str | None,
    *,
    caching: bool,
    small: bool,
) -> tuple[api.Version, dict[str, Any]]:
    """Compile the pipeline and upload it; return the version and the parameters of its runs."""
    parameters = arguments(settings, root, lineage(root, settings, CLUSTER))
    # Not a file of the project: two commands that start together would overwrite each other's.
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "pipeline.yaml"
        compile_pipeline(
            package,
            parameters,
            num_shards=settings.extraction.shards,
            image=partial(registry_name, registry=registry),
            caching=caching,
            small=small,
        )
        return api.upload(client, package), parameters


def mlflow_variables(context: str) -> dict[str, str]:
    """Return the variables by which commands on this machine use the cluster's MLflow.

    Raises:
        UserError: the cluster does not answer, or has no login.
    """
    check_kubectl()
    cluster = Cluster(context)
    cluster.check_answers()
    login = _secret(cluster, MLFLOW_SECRET)
    login["MLFLOW_TRACKING_URI"] = login.pop("MLFLOW_PAGES", login["MLFLOW_TRACKING_URI"])
    return login


def _push_data(cluster: Cluster, root: Path, display: Display) -> None:
    """Push the data to the cluster's own object store; to another remote the user pushes."""
    keys = _secret(cluster, REMOTE_SECRET)
    config = json.loads(keys[remotes.REMOTE])
    with contextlib.ExitStack() as stack:
        endpoint = _reach(cluster, config.get("endpointurl", ""), stack)
        if endpoint is None:
            return
        writer = dvc_writer(cluster) or keys
        key = {
            "access_key_id": writer["AWS_ACCESS_KEY_ID"],
            "secret_access_key": writer["AWS_SECRET_ACCESS_KEY"],
        }
        if num_files := dvc.push(root, {**config, **key, "endpointurl": endpoint}):
            display.say(f"{num_files} files of data and models pushed to the cluster")


def _reach(cluster: Cluster, address: str, stack: contextlib.ExitStack) -> str | None:
    """Return where an address inside of the cluster is reached from here; None if it is outside."""
    inside = _INSIDE.fullmatch(address)
    if inside is None:
        return None
    service, namespace, port = inside.groups()
    return stack.enter_context(cluster.forwarded(namespace, service, int(port)))


def _secret(cluster: Cluster, name: str) -> dict[str, str]:
    found = cluster.secret(KUBEFLOW, name)
    if found is None:
        raise UserError(
            f"there is no Secret {KUBEFLOW}/{name} in {cluster.context}: make cluster-up, or see "
            "docs/cluster.md for a Kubeflow of your own"
        )
    return found


def _watch(cluster: Cluster, run_id: str, display: Display) -> list[Task]:
    """Show the run's steps until it ends, and return them.

    Raises:
        StepError: it failed, it was deleted, or the cluster is silent.
    """
    shown: dict[str, set[str]] = defaultdict(set)
    with Follower(cluster, KUBEFLOW, display) as follower:
        for found, pods in _looks(cluster, run_id):
            steps = workflow.tasks(found, pods)
            for task in steps:
                if task.state is State.RUNNING:
                    follower.follow(task.title, task.pod)
                if (news := _news(task)) not in shown[task.title]:
                    shown[task.title].add(news)
                    _show(task, display)
            if workflow.has_ended(found):
                break
    failed = [task for task in steps if task.state is State.FAILED]
    if workflow.phase(found) != "Succeeded":
        raise StepError(_complaint(cluster, found, failed))
    return steps


def _looks(cluster: Cluster, run_id: str) -> Iterator[tuple[Object, list[Object]]]:
    """Yield the run's workflow and its pods, again and again; a short silence is waited out."""
    where = (f"--namespace={KUBEFLOW}", f"--selector=pipeline/runid={run_id}")
    answered = time.monotonic()
    while True:
        try:
            found = cluster.items("workflows.argoproj.io,pods", *where)
        except UserError as error:
            if time.monotonic() - answered > PATIENCE:
                raise _SilenceError(
                    f"no answer for {PATIENCE} s, in which the run may have gone on: {error}"
                ) from None
        else:
            answered = time.monotonic()
            workflows = [item for item in found if item["kind"] == "Workflow"]
            if not workflows:
                raise StepError(f"the run {run_id} was deleted")
            yield workflows[0], [item for item in found if item["kind"] == "Pod"]
        time.sleep(INTERVAL)


def _news(task: Task) -> str:
    """Return what is to be shown once: a state, each attempt, each kind of trouble.

    Of troubles the first word: ErrImagePull and ImagePullBackOff take turns for ever.
    """
    attempt = task.pod if task.state is State.RUNNING else ""
    return f"{task.state} {attempt} {task.trouble.partition(':')[0]}"


def _show(task: Task, display: Display) -> None:
    match task.state:
        case State.WAITING if task.trouble:
            display.waits(task.title, task.trouble)
        case State.RUNNING:
            display.started(task.title, task.attempt)
        case State.DONE:
            display.finished(task.title, task.seconds)
        case State.REUSED:
            display.reused(task.title, "unchanged, from Kubeflow's cache")
        case State.FAILED:
            display.failed(task.title)


def _complaint(cluster: Cluster, found: Object, failed: list[Task]) -> str:
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


@contextlib.contextmanager
def _mlflow(cluster: Cluster) -> Iterator[str]:
    """Let `tracking` reach the cluster's MLflow for the block; yield its pages' address."""
    login = _secret(cluster, MLFLOW_SECRET)
    server = login["MLFLOW_TRACKING_URI"]
    with contextlib.ExitStack() as stack:
        inside = _reach(cluster, server, stack)
        os.environ.update({**login, "MLFLOW_TRACKING_URI": inside or server})
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
        yield login.get("MLFLOW_PAGES", server)


def _outcome(cluster: Cluster, run_id: str, url: str, steps: list[Task]) -> Outcome:
    """Read what the run's steps have logged under the pipeline's run in MLflow."""
    with _mlflow(cluster) as pages, tempfile.TemporaryDirectory() as folder:
        try:
            run = runs.find_run(run_id)
            logged = {file.path for file in run.client.list_artifacts(run.id)}
            if missing := sorted(set(runs.OUTCOME) - logged):
                raise StepError(f"the run succeeded, but its run in MLflow lacks {missing}")
            files = {
                name: Path(run.client.download_artifacts(run.id, name, folder))
                for name in runs.OUTCOME
            }
        except MlflowException as error:
            raise StepError(f"the run succeeded, but MLflow does not tell of it: {error}") from None
        registration = Registration.read(files["registration.json"])
        version = f"{registration.name}/versions/{registration.version}"
        return Outcome(
            leaderboard=Leaderboard.read(files["leaderboard.json"]),
            evaluation=Evaluation.read(files["evaluation.json"]),
            registration=registration,
            report_html=files["report.html"].read_text(encoding="utf-8"),
            num_steps=len(steps),
            num_reused=sum(task.state is State.REUSED for task in steps),
            places=(
                f"Kubeflow: {url}",
                f"MLflow:   {pages}/#/experiments/{run.experiment_id}/runs/{run.id}",
                f"          {pages}/#/models/{version}",
            ),
        )
