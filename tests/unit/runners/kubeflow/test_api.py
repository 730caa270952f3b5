"""Calls of Kubeflow's API by its own client, answered by a server that records them."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import kfp
import pytest

from crossfold.runners.kubeflow.api import Version, start, upload


class Api(BaseHTTPRequestHandler):
    """Kubeflow's API as far as it is used here; the first upload meets another one's."""

    server: "Server"

    def do_GET(self) -> None:
        if "/pipelines" in self.path:
            named = [{"pipeline_id": "p", "display_name": "crossfold"}]
            self._answer(200, {"pipelines": named if self.server.has_pipeline else []})
        elif "/experiments" in self.path:
            self._answer(
                200, {"experiments": [{"experiment_id": "e", "display_name": "crossfold"}]}
            )
        else:
            self._answer(200, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((self.path, body))
        if "upload" in self.path and not self.server.has_pipeline:
            self.server.has_pipeline = True
            self._answer(409, {"message": "the name crossfold already exists"})
        else:
            self._answer(200, {"run_id": "r", "pipeline_version_id": "v"})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: object) -> None:
        pass


class Server(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Api)
        self.posted: list[tuple[str, bytes]] = []
        self.has_pipeline = False


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def client(server: Server) -> kfp.Client:
    return kfp.Client(host=f"http://127.0.0.1:{server.server_port}", namespace="kubeflow")


PARAMETERS = {"num_epochs": 3, "folds": [0, 1], "lineage": {"git_commit": "0f"}, "margin": 0.02}


def test_a_run_is_started_with_its_parameters(server: Server, client: kfp.Client) -> None:
    assert start(client, Version("p", "v", "e"), PARAMETERS) == "r"
    ((path, body),) = server.posted
    assert path == "/apis/v2beta1/runs"
    assert json.loads(body)["runtime_config"]["parameters"] == PARAMETERS


def test_of_two_first_uploads_the_later_becomes_a_version(
    server: Server, client: kfp.Client, tmp_path: Path
) -> None:
    (tmp_path / "pipeline.yaml").write_text("a: b")
    assert upload(client, tmp_path / "pipeline.yaml") == Version("p", "v", "e")
    upload(client, tmp_path / "pipeline.yaml")
    first, *later = [path for path, _ in server.posted]
    assert first.startswith("/apis/v2beta1/pipelines/upload?")
    assert all(path.startswith("/apis/v2beta1/pipelines/upload_version?") for path in later)
    assert len(set(later)) == 2, "versions of the same second have names of their own"
