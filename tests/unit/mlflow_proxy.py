"""A real MLflow server, and a proxy before it that loses requests or answers."""

import http.client
import math
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


@contextmanager
def mlflow_server(folder: Path, python_path: str = "") -> Iterator[int]:
    """Serve the SQLite store `folder`/mlflow.db during the block; yields the port.

    The packages in `python_path` come before the installed ones.
    """
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--workers=1", "--serve-artifacts"),
            *("--host=127.0.0.1", f"--port={port}"),
            f"--backend-store-uri=sqlite:///{folder}/mlflow.db",
            f"--artifacts-destination={folder}/artifacts",
        ],
        env={
            **os.environ,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PYTHONPATH": python_path,
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_until_healthy(port, process)
        yield port
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def free_port() -> int:
    """Find a free port on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("mlflow server did not come up")


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server on this machine, and injects faults.

    Attributes:
        delay: seconds that each request for something other than a file waits.
        cut_at: the end of the path of the write whose answer is lost, as is every request from then
            on; "" for none.
        cut_for: for how many seconds.
        every_answer_lost: whether the first answer to each write is lost.
        writes: the writes that arrived at the server.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = port
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.writes: list[str] = []
        self._answered: set[bytes] = set()
        self.restore()

    def restore(self) -> None:
        """Inject nothing any more."""
        self.delay = 0.0
        self.cut_at = ""
        self.cut_for = math.inf
        self.cut_until = 0.0
        self.every_answer_lost = False

    def loses_answer(self, path: str, request: bytes) -> bool:
        """Tell whether the answer to a write is lost, and cut the line if it is time."""
        self.writes.append(path)
        if self.cut_at and path.endswith(self.cut_at):
            self.cut_at, self.cut_until = "", time.monotonic() + self.cut_for
            return True
        is_first = request not in self._answered
        self._answered.add(request)
        return self.every_answer_lost and is_first


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _pass_on(self) -> None:
        proxy, path = self.server, urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.close_connection = True  # so that the next request is not lost for another reason
        if time.monotonic() < proxy.cut_until:
            return
        is_file = "/mlflow-artifacts/" in path
        time.sleep(0 if is_file else proxy.delay)
        is_write = self.command != "GET" and not is_file and not path.endswith("/search")
        answer = self._ask(body)
        if not (is_write and proxy.loses_answer(path, f"{self.command} {path} ".encode() + body)):
            self._answer(*answer)

    def _ask(self, body: bytes) -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.headers.get("Content-Type", "text/plain"), content

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def do_PUT(self) -> None:
        self._pass_on()

    def do_PATCH(self) -> None:
        self._pass_on()

    def do_DELETE(self) -> None:
        self._pass_on()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    """Run a proxy before the server at `port` during the block."""
    with Proxy(port) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield listening
        listening.shutdown()
