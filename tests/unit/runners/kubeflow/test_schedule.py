"""Scheduled runs: the branch's pointers by real git, and what Kubeflow is asked for.

Kubeflow itself is a few lines of HTTP here: its server can't be had.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import yaml

from crossfold.errors import UserError
from crossfold.runners.kubeflow import scheduled_start
from crossfold.runners.kubeflow.api import Version, run_of
from crossfold.runners.kubeflow.schedule import _check_branch, _cron_job, _https, _origin
from crossfold.runners.kubeflow.scheduled_start import pointers
from pipelines.arguments import _pointer

POINTER = """outs:
- md5: {md5}.dir
  size: 3
  nfiles: 1
  hash: md5
  path: {name}
"""


def git(folder: Path, *arguments: str) -> None:
    settings = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    subprocess.run(["git", *settings, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path, digit: str) -> None:
    for name in ("data", "models"):
        (folder / f"{name}.dvc").write_text(POINTER.format(name=name, md5=digit * 32))
    git(folder, "add", ".")
    git(folder, "commit", "--message", digit)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A repository that git itself serves; branch main, branch newer, and one without data."""
    root = tmp_path_factory.mktemp("git")
    work = root / "team"
    work.mkdir()
    git(work, "init", "--initial-branch=main")
    git(work, "commit", "--allow-empty", "--message=empty")
    git(work, "branch", "empty")
    commit(work, "1")
    git(work, "checkout", "-b", "newer")
    commit(work, "2")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    daemon = ["git", "daemon", "--listen=127.0.0.1", f"--port={port}", "--export-all"]
    # Not by `git`, which would be another process than the one that serves.
    program = subprocess.check_output(["git", "--exec-path"], text=True).strip()
    daemon[:2] = [f"{program}/git-daemon"]
    server = subprocess.Popen([*daemon, f"--base-path={root}"])
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"git://127.0.0.1:{port}/team/.git"
    finally:
        server.terminate()
        server.wait()


@pytest.mark.parametrize(("branch", "digit"), [("main", "1"), ("newer", "2")])
def test_the_pointers_are_those_of_the_branch_as_a_run_gives_them(
    repository: str, branch: str, digit: str, tmp_path: Path
) -> None:
    found = pointers(repository, branch)
    for name in ("data", "models"):
        path = tmp_path / f"{name}.dvc"
        path.write_text(POINTER.format(name=name, md5=digit * 32))
        assert found[f"{name}_pointer"] == _pointer(tmp_path, name)


@pytest.mark.parametrize(
    ("branch", "path", "message"),
    [
        ("none", "", "branch none of "),
        ("main", "/nothing", "branch main of .*/nothing"),
        ("empty", "", r"branch empty of .* data\.dvc"),
    ],
)
def test_a_branch_without_data_is_refused(
    repository: str, branch: str, path: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pointers(repository + path, branch)


class Kubeflow(BaseHTTPRequestHandler):
    """Takes runs, and refuses those of the pipeline `unknown`."""

    taken: ClassVar[list[dict[str, object]]] = []

    def do_POST(self) -> None:
        run = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refused = run["pipeline_version_reference"]["pipeline_id"] == "unknown"
        self.send_response(404 if refused else 200)
        self.end_headers()
        if refused:
            self.wfile.write(b'{"message": "there is no such pipeline"}')
            return
        self.taken.append({"path": self.path, **run})
        self.wfile.write(b'{"run_id": "a-run"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def kubeflow() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Kubeflow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


PART = {"backbone": "b", "weights_pointer": "older"}
PARAMETERS = {
    "data_pointer": "older",
    "models_pointer": "older",
    "weights_pointer": "older",
    "parts": [PART],
    "num_epochs": 3,
}


def start(repository: str, kubeflow: str, pipeline: str) -> "subprocess.CompletedProcess[str]":
    """Run the program as the CronJob does, from its file alone."""
    environment = {
        **os.environ,
        "REPOSITORY": repository,
        "BRANCH": "newer",
        "KUBEFLOW": kubeflow,
        "RUN": json.dumps(run_of(Version(pipeline, "version", "experiment"), PARAMETERS)),
    }
    program = [sys.executable, scheduled_start.__file__]
    return subprocess.run(program, env=environment, capture_output=True, text=True)


def test_a_run_is_started_with_the_branchs_data_and_the_versions_settings(
    repository: str, kubeflow: str
) -> None:
    done = start(repository, kubeflow, "pipeline")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("run a-run, with these pointers of newer:")
    (run,) = Kubeflow.taken
    assert run["path"] == "/apis/v2beta1/runs"
    assert run["service_account"] == "crossfold-steps"
    assert run["experiment_id"] == "experiment"
    assert run["pipeline_version_reference"] == {
        "pipeline_id": "pipeline",
        "pipeline_version_id": "version",
    }
    newer = pointers(repository, "newer")
    weights = {"weights_pointer": newer["models_pointer"]}
    given = {**newer, **weights, "parts": [{**PART, **weights}], "num_epochs": 3}
    assert run["runtime_config"] == {"parameters": given}


def test_weights_that_did_not_change_keep_their_own_pointer() -> None:
    parameters = {**PARAMETERS, "models_pointer": "same"}
    newer = {"data_pointer": "newer", "models_pointer": "same"}
    assert scheduled_start._with_pointers(parameters, newer) == parameters | newer


def test_what_kubeflow_refuses_is_said_and_the_job_fails(repository: str, kubeflow: str) -> None:
    done = start(repository, kubeflow, "unknown")
    assert done.returncode == 1
    assert done.stderr == (
        'error: Kubeflow Pipelines: 404 {"message": "there is no such pipeline"}\n'
    )


def test_a_kubeflow_that_does_not_answer_is_named(repository: str) -> None:
    done = start(repository, "http://127.0.0.1:1", "pipeline")
    assert done.returncode == 1
    assert "error: Kubeflow Pipelines at http://127.0.0.1:1: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "address", ["git@example.com:team/repo.git", "ssh://git@example.com/team/repo.git"]
)
def test_a_pod_has_no_ssh(address: str) -> None:
    assert _https(address) == "https://example.com/team/repo.git"
    assert _https("https://example.com/team/repo.git") == "https://example.com/team/repo.git"
    with pytest.raises(UserError, match=r"/srv/repo.*https"):
        _https("/srv/repo")


def test_a_folder_without_an_origin_and_a_branch_that_is_not_there(
    repository: str, tmp_path: Path
) -> None:
    git(tmp_path, "init")
    with pytest.raises(UserError, match=r"`origin`.*--repository"):
        _origin(tmp_path)
    git(tmp_path, "remote", "add", "origin", repository)
    assert _origin(tmp_path) == repository
    _check_branch(tmp_path, "origin", "main")
    with pytest.raises(UserError, match="branch none in origin"):
        _check_branch(tmp_path, "origin", "none")


def test_the_job_holds_no_login_and_may_do_nothing_in_the_cluster() -> None:
    text = yaml.safe_dump(_cron_job("0 3 * * *", "crossfold-data:0", {"BRANCH": "main"}))
    assert "automountServiceAccountToken: false" in text
    assert "runAsNonRoot: true" in text
    assert "secretKeyRef" in text
    assert "GIT_PASSWORD" in text
