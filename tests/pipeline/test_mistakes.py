"""What a user may get wrong: one clear message, no traceback, nothing half-written."""

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from filelock import FileLock

from .projects import SOURCE, Project


def refused(project: Project, *command: str, status: int = 2) -> str:
    """Run a command that must be refused, and return its message."""
    output = project.call("crossfold", *command, status=status)
    assert "Traceback" not in output
    assert output.count("error: ") == 1
    return re.sub(r"\s+", " ", output)


@pytest.fixture
def empty(tmp_path: Path) -> Project:
    """A folder with the settings alone."""
    shutil.copy(SOURCE / "params.yaml", tmp_path)
    return Project(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("traning.num_epochs=3", "traning: there is no such setting"),
        ("training.num_epochs=many", "training.num_epochs: 'many' is not allowed"),
    ],
)
def test_a_mistaken_change(empty: Project, change: str, message: str) -> None:
    assert message in refused(empty, "run", "--set", change)
    assert not (empty.root / "runs").exists()


def test_a_mistaken_file_of_settings(empty: Project) -> None:
    params = empty.root / "params.yaml"
    values = yaml.safe_load(params.read_text())
    values["data"]["folds"] = 5
    values["training"]["num_epochs"] = "ten"
    params.write_text(yaml.safe_dump(values))
    message = refused(empty, "run")
    assert "params.yaml has mistakes" in message
    assert "data.folds: there is no such setting" in message
    assert "training.num_epochs: 'ten' is not allowed" in message


def test_outside_a_project(tmp_path: Path) -> None:
    message = refused(Project(tmp_path), "run")
    assert "params.yaml does not exist" in message
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_place_to_run(empty: Project) -> None:
    output = empty.call("crossfold", "run", "--on", "nowhere", status=2)
    assert "'nowhere' is not one of 'local'" in output
    assert "Traceback" not in output


def test_a_port_in_use(empty: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"port {port} is in use" in refused(empty, "mlflow-ui", "--port", port)


@pytest.mark.parametrize(
    ("path", "content", "command"),
    [
        ("runs", "a file", ("clean",)),
        ("runs/mlflow.db", "no database", ("mlflow-ui",)),
        ("data.dvc", "no: [pointer", ("compile",)),
    ],
)
def test_a_file_that_is_not_the_projects(
    empty: Project, path: str, content: str, command: tuple[str, ...]
) -> None:
    (empty.root / path).parent.mkdir(exist_ok=True)
    (empty.root / path).write_text(content)
    assert path in refused(empty, *command)


def test_prediction_without_a_model(empty: Project) -> None:
    message = refused(empty, "predict", "image.png")
    assert "`crossfold run`" in message


class _UnwillingServer(BaseHTTPRequestHandler):
    """A tracking server that is healthy, and refuses or drops every request for something."""

    def do_GET(self) -> None:
        if self.path == "/health":
            self.send_response(200)
            self.end_headers()
        else:
            self.refuse()

    def do_POST(self) -> None:
        self.refuse()

    def refuse(self) -> None:
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class _ForbiddingServer(_UnwillingServer):
    def refuse(self) -> None:
        self.send_error(403)


class _FailingServer(_UnwillingServer):
    def refuse(self) -> None:
        self.send_error(400, "that is how it is")


@contextmanager
def tracked_at(project: Project, server: type[BaseHTTPRequestHandler]) -> Iterator[None]:
    """Let a server be the project's tracking server for the block."""
    with ThreadingHTTPServer(("127.0.0.1", 0), server) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        variables = {
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{listening.server_port}",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # else it is asked for minutes
        }
        with project.exported(variables):
            yield
        listening.shutdown()


@pytest.mark.parametrize("command", [("models",), ("promote", "1"), ("predict", "image.png")])
def test_a_login_that_the_tracking_server_refuses(empty: Project, command: tuple[str, ...]) -> None:
    (empty.root / "image.png").touch()
    with tracked_at(empty, _ForbiddingServer):
        message = refused(empty, *command)
    assert "refuses this login. Set MLFLOW_TRACKING_USERNAME" in message


@pytest.mark.slow
def test_a_tracking_server_that_is_lost_or_fails(empty: Project) -> None:
    with tracked_at(empty, _UnwillingServer):
        message = refused(empty, "models", status=1)
    assert "When it is up, try again" in message
    with tracked_at(empty, _FailingServer):
        message = refused(empty, "models", status=1)
    assert "error: MLflow: " in message
    assert "that is how it is" in message


@pytest.fixture(scope="module")
def project(new_project: Callable[[], Project]) -> Project:
    return new_project()


@pytest.mark.slow
def test_a_second_run_while_one_runs(project: Project) -> None:
    (project.root / "runs").mkdir()
    with FileLock(project.root / "runs/lock"):
        assert "another run uses " in refused(project, "run")


@pytest.mark.slow
def test_data_changed_since_it_was_added(project: Project) -> None:
    extra = project.root / "data/0/extra.bmp"
    shutil.copy(next((project.root / "data/1").iterdir()), extra)
    message = refused(project, "run")
    assert "data changed since `dvc add`: run `dvc add data`" in message
    extra.unlink()
    assert project.runs() == []


@pytest.mark.slow
def test_a_name_that_dvc_fails_on(project: Project) -> None:
    extra = project.root / "data/0" / os.fsdecode(b"caf\xe9.bmp")
    shutil.copy(next((project.root / "data/1").iterdir()), extra)
    message = refused(project, "run")
    extra.unlink()
    assert "data/0/caf\\xe9.bmp: not UTF-8" in message
    assert project.runs() == []


@pytest.mark.slow
def test_data_that_was_never_added(project: Project) -> None:
    pointer = project.root / "data.dvc"
    pointer.rename(project.root / "elsewhere")
    message = refused(project, "run")
    (project.root / "elsewhere").rename(pointer)
    assert "put files under data/ and `dvc add data`" in message
    assert project.runs() == []


@pytest.mark.slow
def test_a_tracking_server_that_does_not_answer(project: Project) -> None:
    message = refused(project, "run", "--set", "tracking.uri=http://127.0.0.1:9")
    assert "the tracking server http://127.0.0.1:9 cannot be reached" in message
    # It does not stand in the way of another run.
    message = refused(project, "run", "--set", "model.weights=resnet18.safetensors")
    assert "models.dvc has no file 'resnet18.safetensors'; did you mean resnet18-random" in message
    assert project.runs() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("candidates.0={train_from: layer9, learning_rate: 0.1, weight_decay: 0}", "layer4"),
        ("model.architecture=resnet50", "the file does not fit resnet50"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_the_run(
    project: Project, change: str, message: str
) -> None:
    assert message in refused(project, "run", "--set", change)
    assert project.runs() == []


def corrupt_image(project: Project) -> None:
    (project.root / "data/3/broken.png").write_bytes(b"no image")
    project.call("dvc", "add", "data")


# Mistakes that only a step can find: what makes one, the step, and what must be said. The unit
# tests have the others; here it is how a run ends.
IN_A_STEP: dict[str, tuple[Callable[[Project], None], str, tuple[str, ...]]] = {
    "corrupt image": (
        corrupt_image,
        "fetch_data",
        ("1 of 201 images cannot be used", "data/3/broken.png", "data.max_skipped_fraction"),
    ),
}


@pytest.fixture(scope="module")
def failed(new_project: Callable[[], Project]) -> dict[str, tuple[Project, str]]:
    """A project with each mistake and what its run printed; two run at a time."""

    def run(mistake: str) -> tuple[Project, str]:
        project = projects[mistake]
        IN_A_STEP[mistake][0](project)
        return project, project.call("crossfold", "run", status=1)

    projects = {mistake: new_project() for mistake in IN_A_STEP}
    with ThreadPoolExecutor(2) as two:
        return dict(zip(IN_A_STEP, two.map(run, IN_A_STEP), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("mistake", IN_A_STEP)
def test_a_mistake_that_a_step_finds(failed: dict[str, tuple[Project, str]], mistake: str) -> None:
    project, output = failed[mistake]
    _, step, said = IN_A_STEP[mistake]
    message = re.sub(r"\s+", " ", output.partition("error: ")[2])
    assert message.startswith(f"{step}: ")
    assert all(part in message for part in said)
    assert "Traceback" not in output
    (run,) = project.runs()
    log = Path(run["folder"]) / f"{step}.log"
    assert f"The step's whole log: {log}" in message
    assert "Traceback" not in log.read_text()
    assert run["status"] == "failed"
    parent = project.parent(run["id"])
    assert parent.info.status == "FAILED"
    assert project.steps(parent)[step].info.status == "FAILED"
    assert said[0] in project.steps(parent)[step].data.tags["crossfold.error"]
    assert project.unfinished_files() == []
    assert not (project.root / "reports").exists()
