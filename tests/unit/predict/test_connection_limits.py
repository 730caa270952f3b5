"""A real server process stays alive and small, and answers others, whatever a client sends."""

import base64
import contextlib
import http.client
import io
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

POST = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
NUM_CLIENTS = 200


def _request_of(grey: int) -> bytes:
    """Ask for the class of a grey image, which is its grey level."""
    file = io.BytesIO()
    Image.new("L", (32, 32), grey).save(file, "PNG")
    return json.dumps({"inputs": [base64.b64encode(file.getvalue()).decode()]}).encode()


BODY = _request_of(4)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a server that stays alive and small through all tests."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    program = [sys.executable, "-m", "tests.unit.predict.stand_in_server", str(number)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and "ready" in process.stdout.readline()
            _ask(number)
            before = _peak(process.pid)
            yield number
            assert _ask(number) == "4"
            assert _peak(process.pid) - before < 200 * 2**20
        finally:
            process.terminate()


def _peak(pid: int) -> int:
    """Read the most memory that a process has had so far, in bytes, from Linux's /proc."""
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(kilobytes) * 1024


def _ask(port: int, body: bytes = BODY) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        (row,) = json.load(connection.getresponse())["predictions"]
        return str(row["label"])


def _send(port: int, sent: bytes) -> tuple[int, bytes]:
    """Send bytes, and read the status and the body of the answer until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(sent)
        response = http.client.HTTPResponse(client)
        response.begin()
        return response.status, response.read()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: [x\r\n\r\n", 404),
        (b"GET /%0a%00 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"PUT /invocations HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"no HTTP\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000, 400),
        (POST + b"Content-Length: -1\r\n\r\n", 400),
        (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (POST + b"Content-Length: 1000000000000\r\n\r\n", 413),
        (POST + b"\r\n" + BODY, 400),  # no length: the body is empty
        (POST + b"Content-Length: 5\r\n\r\n" + BODY, 400),
        (POST + b"Content-Length: 500\r\n\r\n" + BODY, 408),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n[NaN]\r\n0\r\n\r\n", 400),
        (POST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 400),
    ],
)
def test_what_breaks_the_protocol_is_refused_in_one_line(
    port: int, sent: bytes, status: int
) -> None:
    found, content = _send(port, sent)
    assert found == status
    message = json.loads(content)["message"]
    assert message and "\n" not in message


def test_millions_of_small_values_are_refused_before_they_are_parsed(port: int) -> None:
    body = b'{"inputs": [' + b"[]," * 2**21 + b"[]]}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 413


def test_a_header_that_never_ends_keeps_no_one_waiting(port: int) -> None:
    with contextlib.ExitStack() as open_clients:
        slow = [
            open_clients.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            for _ in range(NUM_CLIENTS)
        ]
        for number, client in enumerate(slow):
            client.sendall(POST if number % 2 else b"")
        assert _ask(port) == "4"
        for client in slow:
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b"", "the server closes it"


def test_many_clients_at_once_each_get_their_own_answer(port: int) -> None:
    bodies = [_request_of(grey) for grey in range(NUM_CLIENTS)]
    with ThreadPoolExecutor(NUM_CLIENTS) as clients:
        labels = list(clients.map(lambda body: _ask(port, body), bodies))
    assert labels == [str(grey) for grey in range(NUM_CLIENTS)]
