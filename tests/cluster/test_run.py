"""`crossfold run --on cluster` on a real Kubernetes: how a run is watched, and what is reached.

Kubeflow is not there, so a test writes a run's status itself, as Argo's controller would. Where no
service is needed, runs are in a namespace of these tests, and a Kubeflow that is there sees none.
"""

import contextlib
import io
import json
import os
import re
import signal
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psutil
import pytest
import requests
import yaml
from rich.console import Console

from crossfold.diagnosis.findings import Diagnosis
from crossfold.errors import UserError
from crossfold.infra.cluster.kubectl import Object
from crossfold.infra.image_tags import DATA
from crossfold.infra.secret_names import MLFLOW_SECRET, REMOTE_SECRET
from crossfold.records import Evaluation, Leaderboard, Registration
from crossfold.runners.display import Display
from crossfold.runners.failures import Interrupted, StepError, signals_interrupt
from crossfold.runners.kubeflow import access, api, pod_failure
from crossfold.runners.kubeflow import watch as watch_module
from crossfold.runners.kubeflow.access import reach
from crossfold.runners.kubeflow.runner import read_outcome
from crossfold.runners.kubeflow.submission import push_data
from crossfold.runners.kubeflow.watch import watch_run
from crossfold.runners.kubeflow.workflow import State, Task
from crossfold.step.runtime import NOT_REPEATED, ON_KUBERNETES, REFUSED
from crossfold.tracking import run_tree
from crossfold.versioning import remotes

from ..docker.services import free_port, wait
from ..pipeline.projects import Project, alive, write_project
from ..pipeline.test_mistakes import refused
from .cluster import TestCluster
from .services import OURS, Services
from .test_pods import pod

NAMESPACE = "crossfold-tests-run"
RECORDED = Path(__file__).parents[1] / "unit/recorded"
LABELLED = f"--selector={OURS}=true"
FETCH = "fetch-data(0).executor"
FOLD = "for-loop-1(0).iteration-iterations(0:0)(0).iteration-item(0).train-fold(0).executor(0)"
WORKS = "echo begun; echo progress 3/5 epochs; until [ -e /tmp/go ]; do sleep 0.1; done"
WORKFLOWS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "workflows.argoproj.io", "labels": {OURS: "true"}},
    "spec": {
        "group": "argoproj.io",
        "names": {"kind": "Workflow", "plural": "workflows", "singular": "workflow"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                    }
                },
            }
        ],
    },
}


@pytest.fixture(scope="session")
def namespace(cluster: TestCluster) -> Iterator[str]:
    """A namespace for runs, in a cluster that knows what a Workflow is."""
    _remove(cluster)
    if not cluster.get("crd", "workflows.argoproj.io"):
        cluster.apply([WORKFLOWS])
        established = ("wait", "--for=condition=Established", "--timeout=60s")
        cluster.kubectl(*established, "crd/workflows.argoproj.io")
    metadata = {"name": NAMESPACE, "labels": {OURS: "true"}}
    cluster.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}])
    yield NAMESPACE
    _remove(cluster)


def _remove(cluster: TestCluster) -> None:
    """Delete what these tests made, now or in a run that was ended."""
    patiently = ("--timeout=180s", "--request-timeout=0")
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", *patiently)
    cluster.kubectl("delete", "crd", LABELLED, *patiently)


@pytest.fixture
def runs_here(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (access, api, pod_failure, watch_module):
        monkeypatch.setattr(module, "KUBEFLOW", namespace)
    monkeypatch.setattr(watch_module, "INTERVAL", 0.2)


@pytest.fixture(scope="session")
def image(cluster: TestCluster, images: dict[str, str]) -> str:
    """An image with a shell and Python, which the cluster has."""
    cluster.load(images[DATA])
    return images[DATA]


def short_lived(name: str, image: str, *command: str, **container: Any) -> Object:
    """Return a pod that can be deleted at once."""
    wanted = pod(name, NAMESPACE, image, *command, **container)
    wanted["spec"]["terminationGracePeriodSeconds"] = 1
    return wanted


class Run:
    """A run as the cluster holds it, and what a person sees of it."""

    def __init__(self, cluster: TestCluster, image: str) -> None:
        self.cluster = cluster
        self.id = str(uuid4())
        self.name = f"run-{self.id[:8]}"
        self._image = image
        self.failed_looks: list[UserError] = []
        self._nodes: dict[str, Object] = {}
        self._text = io.StringIO()
        # A terminal, or no bar would be drawn.
        console = Console(file=self._text, force_terminal=True, width=200)
        self.display = Display(console, verbose=True)
        labels = {
            "pipeline/runid": self.id,
            # No controller that may be there is the one of this name.
            "workflows.argoproj.io/controller-instanceid": OURS,
        }
        kind = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"}
        metadata = {"name": self.name, "namespace": NAMESPACE, "labels": labels}
        cluster.apply([{**kind, "metadata": metadata, "spec": {}}])

    def node(self, path: str, phase: str, kind: str = "Pod", message: str = "") -> str:
        """Change or add a node of the workflow; return its id."""
        node = self._nodes.setdefault(path, {"id": f"{self.name}-{len(self._nodes)}"})
        node |= {"name": f"{self.name}(0).root(0).{path}", "type": kind, "phase": phase}
        node |= {"startedAt": f"2026-01-01T00:00:{len(self._nodes):02}Z", "message": message}
        return str(node["id"])

    def tell(self, phase: str, message: str = "") -> None:
        """Write the workflow's status, as Argo does."""
        nodes = {node["id"]: node for node in self._nodes.values()}
        status = {"phase": phase, "message": message, "nodes": nodes}
        patch = ("patch", "workflows.argoproj.io", self.name, f"--namespace={NAMESPACE}")
        self.cluster.kubectl(*patch, "--type=merge", f"--patch={json.dumps({'status': status})}")

    def start(self, node: str, script: str, **container: Any) -> str:
        """Start the pod of a node; return its name."""
        wanted = short_lived(f"{node}-impl", self._image, "sh", "-c", script)
        wanted["spec"]["containers"][0] |= container
        wanted["metadata"]["labels"] = {"pipeline/runid": self.id}
        wanted["metadata"]["annotations"] = {"workflows.argoproj.io/node-id": node}
        self.cluster.apply([wanted])
        return f"{node}-impl"

    def at_work(self) -> str:
        """Bring the run to where a fold is at work, and is seen; return its pod."""
        fold = self.node(FOLD, "Running")
        name = self.start(fold, WORKS)
        self.tell("Running")
        wait(lambda: self.sees(r"train_fold 0 .*3/5 epochs"))
        return name

    def let_go(self, name: str) -> None:
        """End the work of `at_work`."""
        self.cluster.kubectl("exec", name, f"--namespace={NAMESPACE}", "--", "touch", "/tmp/go")
        self.ended(name)

    def ended(self, name: str) -> None:
        """Wait for a pod's end."""
        where = ("pod", name, f"--namespace={NAMESPACE}")
        ends = ("Succeeded", "Failed")
        wait(lambda: self.cluster.get(*where)["status"]["phase"] in ends)

    def sees(self, pattern: str) -> bool:
        """Whether a line that was shown has that in it."""
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self._text.getvalue())
        return re.search(pattern, plain) is not None

    def delete(self) -> None:
        """Delete the workflow, with which its watching ends."""
        where = (self.name, f"--namespace={NAMESPACE}", "--ignore-not-found")
        self.cluster.kubectl("delete", "workflows.argoproj.io", *where)

    @contextlib.contextmanager
    def watched(self, context: str = "") -> Iterator["Future[list[Task]]"]:
        """Watch the run beside the block, which asks the value for its end."""
        failed_looks = self.failed_looks

        class Watched(TestCluster):
            def items(self, *arguments: str) -> list[Object]:
                try:
                    return super().items(*arguments)
                except UserError as error:
                    failed_looks.append(error)
                    raise

        cluster = Watched(context or self.cluster.context)

        def watch() -> list[Task]:
            with self.display:
                return watch_run(cluster, self.id, self.display)

        with ThreadPoolExecutor(1) as thread:
            watching = thread.submit(watch)
            try:
                yield watching
            finally:
                self.delete()
        assert kubectls() == []


@pytest.fixture
def run(cluster: TestCluster, runs_here: None, image: str) -> Iterator[Run]:
    """A run that Kubeflow has accepted, and Argo has not looked at yet."""
    made = Run(cluster, image)
    yield made
    made.delete()
    where = (f"--namespace={NAMESPACE}", f"--selector=pipeline/runid={made.id}")
    cluster.kubectl("delete", "pods", *where, "--wait=false")


def kubectls() -> list[str]:
    """Return the commands of kubectl that this process has left running."""
    return [
        " ".join(process.cmdline())
        for process in alive(psutil.Process().children(recursive=True))
        if process.name() == "kubectl"
    ]


# Watching


def test_a_run_is_followed_to_its_end(run: Run) -> None:
    with run.watched() as watching:
        run.node(FETCH, "Skipped", "Skipped")
        run.node(FOLD, "Pending")
        run.tell("Running")
        wait(lambda: run.sees("↺ fetch_data +unchanged, from Kubeflow's cache"))
        assert not run.sees("train_fold")
        name = run.at_work()
        assert run.sees("… train_fold 0 *\n")
        assert run.sees("    train_fold 0 │ begun")
        run.let_go(name)
        run.node(FOLD, "Succeeded")
        run.tell("Succeeded")
        steps = watching.result(60)
    assert run.sees(r"✓ train_fold 0 +\d+\.\d s")
    assert [(task.title, task.state, task.pod) for task in steps] == [
        ("fetch_data", State.REUSED, ""),
        ("train_fold 0", State.DONE, name),
    ]


def test_a_failed_step_is_told_with_its_last_lines_and_where_the_others_are(run: Run) -> None:
    fold = run.node(FOLD, "Failed", message="main: Error (exit code 1)")
    run.ended(run.start(fold, "seq 1 30; exit 1"))
    run.tell("Failed")
    with run.watched() as watching, pytest.raises(StepError) as failed:
        watching.result(60)
    assert run.sees("✗ train_fold 0 +failed")
    first, *lines, whole = str(failed.value).splitlines()
    assert first == "train_fold 0: main: Error (exit code 1)"
    assert lines == [f"  {number}" for number in range(11, 31)]
    command = whole.removeprefix("The step's whole log: ").split()
    assert subprocess.check_output(command, text=True).split() == [str(n) for n in range(1, 31)]


def test_a_failed_step_whose_pod_is_gone_has_no_log(run: Run) -> None:
    fold = run.node(FOLD, "Failed", message="pod deleted")
    name = run.start(fold, WORKS)
    run.tell("Running")
    with run.watched() as watching:
        wait(lambda: run.sees("✗ train_fold 0"))
        options = (f"--namespace={NAMESPACE}", "--force", "--grace-period=0")
        run.cluster.kubectl("delete", "pod", name, *options)
        run.tell("Failed")
        with pytest.raises(StepError, match=r"^train_fold 0: pod deleted$"):
            watching.result(60)


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        ({"resources": {"requests": {"cpu": "1000"}}}, r"Unschedulable: .*Insufficient cpu"),
        ({"image": "127.0.0.1:1/none:none"}, r"(ErrImagePull|ImagePullBackOff): .*127\.0\.0\.1:1"),
    ],
)
def test_a_step_that_cannot_start_says_why(run: Run, container: Object, reason: str) -> None:
    run.start(run.node(FOLD, "Pending"), "true", **container)
    run.tell("Running")
    with run.watched():
        wait(lambda: run.sees(f"… train_fold 0 +waits: {reason}"))
    assert not run.sees("… train_fold 0 *\n")


def test_a_refusal_is_the_pods_termination_message(
    cluster: TestCluster, namespace: str, image: str
) -> None:
    program = (
        "from crossfold.step.runtime import step\nwith step('fetch_data', '/tmp/examples'): pass"
    )
    env = [{"name": ON_KUBERNETES, "value": "refusing"}]  # and nothing about MLflow
    cluster.apply([short_lived("refusing", image, "python3", "-c", program, env=env)])
    where = ("pod", "refusing", f"--namespace={namespace}")
    wait(lambda: cluster.get(*where)["status"]["phase"] in ("Succeeded", "Failed"), 180)
    (container,) = cluster.get(*where)["status"]["containerStatuses"]
    ended = container["state"]["terminated"]
    assert ended["exitCode"] == REFUSED
    assert ended["message"].startswith(f"{NOT_REPEATED}the environment variable MLFLOW_")


def test_a_run_that_is_deleted_is_told(run: Run) -> None:
    with run.watched() as watching:
        run.at_work()
        run.delete()
        with pytest.raises(StepError, match=f"the run {run.id} was deleted"):
            watching.result(60)


def test_ctrl_c_ends_the_watching_and_not_the_run(run: Run) -> None:
    def interrupt() -> None:
        run.at_work()
        os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor(1) as thread, run.display:
        interrupting = thread.submit(interrupt)
        with (
            pytest.raises(Interrupted, match="the run goes on"),
            signals_interrupt("the run goes on"),
        ):
            watch_run(run.cluster, run.id, run.display)
    interrupting.result()
    wait(lambda: kubectls() == [])  # one that began with the signal ends with its answer
    where = (f"--namespace={NAMESPACE}", f"--selector=pipeline/runid={run.id}")
    phases = {item["status"]["phase"] for item in run.cluster.items("workflows,pods", *where)}
    assert phases == {"Running"}


# An API server that is silent


class Way:
    """A way to the API server that can be closed, so that connections are cut and refused."""

    def __init__(self) -> None:
        self.port = free_port()
        self.target = ("", 0)

    def open(self) -> None:
        self._server = _Server(("127.0.0.1", self.port), _Connection)
        self._server.target = self.target
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for end in self._server.ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    target: tuple[str, int]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ends: set[socket.socket] = set()


class _Connection(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as there:
            self.server.ends |= {self.request, there}
            back = threading.Thread(target=_pass_on, args=(there, self.request), daemon=True)
            back.start()
            _pass_on(self.request, there)
            back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(65536):
            target.sendall(content)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def add_context(cluster: TestCluster, path: Path, name: str, port: int) -> str:
    """Add a context by whose way at a port the cluster is reached; return its server's address."""
    view = ("config", "view", "--raw", "--minify", "--flatten", "--output=json")
    config: Any = json.loads(cluster.kubectl(*view))
    server = str(config["clusters"][0]["cluster"]["server"])
    config["clusters"][0]["cluster"] |= {
        "server": f"https://127.0.0.1:{port}",
        "tls-server-name": urlsplit(server).hostname,
    }
    config["contexts"][0]["context"] |= {"cluster": name, "user": name}
    for found in (config["clusters"][0], config["contexts"][0], config["users"][0]):
        found["name"] = name
    path.touch(0o600)
    path.write_text(yaml.safe_dump(config))
    return server


@pytest.fixture
def way(cluster: TestCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """An open way to the API server, which the context `way` takes."""
    path = tmp_path / "kubeconfig"
    opened = Way()
    server = urlsplit(add_context(cluster, path, "way", opened.port))
    assert server.hostname
    opened.target = (server.hostname, server.port or 443)
    monkeypatch.setenv("KUBECONFIG", str(path), prepend=os.pathsep)
    opened.open()
    yield opened
    opened.close()


def test_a_short_silence_is_waited_out(run: Run, way: Way) -> None:
    with run.watched("way") as watching:
        name = run.at_work()
        way.close()
        wait(lambda: len(run.failed_looks) > 1)
        run.let_go(name)
        run.node(FOLD, "Succeeded")
        run.tell("Succeeded")
        assert not watching.done()
        way.open()
        (task,) = watching.result(90)
    assert task.state is State.DONE
    assert run.sees("✓ train_fold 0")


def test_a_long_silence_ends_the_watching(
    run: Run, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "PATIENCE", 1)
    with run.watched("way") as watching:
        run.at_work()
        way.close()
        with pytest.raises(StepError, match=r"(?s)still be going.*context way: .*refused"):
            watching.result(90)


# Reaching what is in the cluster


@pytest.fixture(scope="module")
def web(cluster: TestCluster, namespace: str, image: str) -> str:
    """A Service of pods that serve files."""
    serve = ("python3", "-m", "http.server", "8000", "--directory=/tmp")
    probe = {"httpGet": {"port": 8000}, "periodSeconds": 1}
    server = short_lived("web", image, *serve, readinessProbe=probe)
    server["metadata"]["labels"] = {"app": "web"}
    cluster.apply([server, service("web")])
    ready = ("wait", "--for=condition=ready", "pod/web", f"--namespace={namespace}")
    cluster.kubectl(*ready, "--timeout=60s", "--request-timeout=0")
    return "web"


def service(name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8000}]},
    }


def test_a_service_is_reached_for_a_block(cluster: TestCluster, web: str) -> None:
    with cluster.forwarded(NAMESPACE, web, 80) as address:
        for _ in range(3):
            assert requests.get(address, timeout=20).status_code == 200
    with pytest.raises(requests.ConnectionError):
        requests.get(address, timeout=20)
    assert kubectls() == []


@pytest.mark.parametrize(
    ("name", "port", "reason"),
    [
        ("nothing", 80, 'services "nothing" not found'),
        ("web", 81, "does not have a service port 81"),
        ("idle", 80, "timed out"),
    ],
)
def test_a_service_that_cannot_be_reached_says_why(
    cluster: TestCluster, web: str, name: str, port: int, reason: str
) -> None:
    cluster.apply([service("idle")])  # no pod is behind it
    where = f"{NAMESPACE}/{name} cannot be reached: "
    with (
        pytest.raises(UserError, match=f"^{where}.*{reason}"),
        cluster.forwarded(NAMESPACE, name, port),
    ):
        pass
    assert kubectls() == []


@pytest.mark.parametrize("address", ["web.{}.svc.cluster.local:80", "web.{}.svc:80/"])
def test_an_address_inside_of_the_cluster_is_forwarded(
    cluster: TestCluster, web: str, address: str
) -> None:
    with contextlib.ExitStack() as stack:
        reached = reach(cluster, f"http://{address.format(NAMESPACE)}", stack)
        assert reached
        assert requests.get(reached, timeout=20).status_code == 200


@pytest.mark.parametrize(
    "address", ["", "https://s3.example.org", "http://web:80", "http://localhost:9000"]
)
def test_an_address_outside_of_the_cluster_is_left_as_it_is(
    cluster: TestCluster, address: str
) -> None:
    with contextlib.ExitStack() as stack:
        assert reach(cluster, address, stack) is None


def test_a_cluster_without_kubeflow_is_refused(cluster: TestCluster, runs_here: None) -> None:
    message = rf'{NAMESPACE}/ml-pipeline cannot be reached: .*"ml-pipeline" not found'
    with pytest.raises(UserError, match=message), api.connected(cluster):
        pass


# Data, and what was found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return write_project(tmp_path_factory.mktemp("cluster") / "project")


@pytest.fixture
def display() -> Display:
    return Display(Console(file=io.StringIO(), width=200), verbose=False)


def said(display: Display) -> str:
    assert isinstance(display.console.file, io.StringIO)
    return display.console.file.getvalue()


def test_a_cluster_without_the_remotes_secret_is_refused(
    cluster: TestCluster, runs_here: None, project: Project, display: Display
) -> None:
    message = f"there is no Secret {NAMESPACE}/{REMOTE_SECRET} in {cluster.context}: "
    with pytest.raises(UserError, match=message):
        push_data(cluster, project.root, display)


@pytest.mark.parametrize(
    "remote",
    [
        {"url": "s3://bucket", "endpointurl": "https://s3.example.org"},
        {"url": "s3://bucket"},
        {"url": "gdrive://folder"},
    ],
)
def test_to_a_remote_outside_of_the_cluster_the_user_pushes(
    cluster: TestCluster,
    runs_here: None,
    project: Project,
    display: Display,
    remote: dict[str, str],
) -> None:
    kind = {"apiVersion": "v1", "kind": "Secret"}
    metadata = {"name": REMOTE_SECRET, "namespace": NAMESPACE}
    content = {remotes.REMOTE: json.dumps(remote)}
    cluster.apply([{**kind, "metadata": metadata, "stringData": content}])
    try:
        push_data(cluster, project.root, display)
    finally:
        cluster.kubectl("delete", "secret", REMOTE_SECRET, f"--namespace={NAMESPACE}")
    assert said(display) == ""


def test_data_are_pushed_to_the_clusters_store_once(
    services: Services, project: Project, display: Display
) -> None:
    # Other tests may have pushed the rest.
    image = project.root / "data" / "0" / "only-here.bmp"
    image.write_bytes(next((project.root / "data" / "0").glob("*.bmp")).read_bytes() + b"\0")
    project.call("dvc", "add", "data")
    push_data(services.cluster, project.root, display)
    (line,) = said(display).splitlines()
    found = re.fullmatch(r"(\d+) files of data and models pushed to the cluster", line)
    assert found and int(found[1]) >= 2  # the image, and the list of the files
    listed = services.s3("dvc").list_objects_v2(Bucket="dvc")["Contents"]
    keys = {found["Key"] for found in listed}
    for pointer in ("data.dvc", "models.dvc"):
        (out,) = yaml.safe_load((project.root / pointer).read_text())["outs"]
        assert f"files/md5/{out['md5'][:2]}/{out['md5'][2:]}" in keys
    push_data(services.cluster, project.root, display)
    assert said(display).splitlines() == [line]
    assert kubectls() == []


def test_data_that_are_nowhere_are_refused(
    services: Services, project: Project, display: Display
) -> None:
    pointer = project.root / "data.dvc"
    before = pointer.read_text()
    (out,) = yaml.safe_load(before)["outs"]
    pointer.write_text(before.replace(out["md5"], "0" * 32 + ".dir"))
    try:
        with pytest.raises(UserError, match="the remote 'cluster'"):
            push_data(services.cluster, project.root, display)
    finally:
        pointer.write_text(before)
    assert said(display) == ""


@pytest.fixture
def mlflow(services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLflow as the steps log to it; the environment is put back in the end."""
    login = services.cluster.secret("kubeflow", MLFLOW_SECRET)
    assert login
    with services.forwarded("mlflow", 5000) as address:
        for name, value in {**login, "MLFLOW_TRACKING_URI": address}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        yield


def test_what_was_found_is_read_from_mlflow(services: Services, mlflow: None) -> None:
    run = run_tree.parent_run("a-run", name="a run")
    for name in ("leaderboard.json", "evaluation.json", "registration.json"):
        run.log_artifact(RECORDED / name, name)
    diagnosis = Diagnosis(left_out={"shortcuts": "diagnosis.shortcuts is false"})
    run.log_artifact(diagnosis.to_json(), "diagnosis.json")
    run.log_artifact("<p>räport</p>", "report.html")
    steps = [Task("fetch_data", State.REUSED), Task("register_model", State.DONE)]
    outcome = read_outcome(services.cluster, "a-run", "http://kubeflow/a-run", steps)
    assert outcome.leaderboard == Leaderboard.read(RECORDED / "leaderboard.json")
    assert outcome.evaluation == Evaluation.read(RECORDED / "evaluation.json")
    assert outcome.diagnosis == diagnosis
    assert outcome.registration == Registration.read(RECORDED / "registration.json")
    assert outcome.report_html == "<p>räport</p>"
    assert (outcome.num_steps, outcome.num_reused) == (2, 1)
    pages = "http://localhost:5001"
    assert outcome.places == (
        "Kubeflow: http://kubeflow/a-run",
        f"MLflow:   {run.page(pages)}",
        f"          {pages}/#/models/crossfold/versions/2",
    )
    assert len(kubectls()) == 1  # the fixture's own


def test_a_run_that_mlflow_does_not_know_is_told(services: Services, mlflow: None) -> None:
    with pytest.raises(UserError, match="has no run of the pipeline run another"):
        read_outcome(services.cluster, "another", "http://kubeflow/another", [])


def test_a_run_that_has_logged_too_little_is_told(services: Services, mlflow: None) -> None:
    run_tree.parent_run("half-a-run", name="a run")
    with pytest.raises(StepError, match=r"its run in MLflow lacks .*registration\.json"):
        read_outcome(services.cluster, "half-a-run", "http://kubeflow/half-a-run", [])


# Mistakes, before anything is asked of Kubeflow


def test_a_context_that_kubectl_does_not_know(cluster: TestCluster, project: Project) -> None:
    message = refused(project, "run", "--on", "cluster", "--context", "nowhere")
    assert "kubectl has no context nowhere; it has: " in message
    assert cluster.context in message


def test_a_cluster_that_does_not_answer(
    cluster: TestCluster, project: Project, tmp_path: Path
) -> None:
    path = tmp_path / "kubeconfig"
    add_context(cluster, path, "gone", free_port())
    with project.exported({"KUBECONFIG": str(path)}):
        message = refused(project, "run", "--on", "cluster", "--context", "gone")
    assert re.search(r"failed in context gone: .*127\.0\.0\.1:\d+ was refused", message)


def test_data_changed_since_they_were_added(cluster: TestCluster, project: Project) -> None:
    extra = project.root / "data" / "0" / "extra.bmp"
    extra.write_bytes(b"another image")
    try:
        message = refused(project, "run", "--on", "cluster", "--context", cluster.context)
    finally:
        extra.unlink()
    assert "data changed since `dvc add`: run `dvc add data`" in message
    assert not (project.root / "runs").exists()
