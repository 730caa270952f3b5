import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from crossfold.errors import UserError
from crossfold.predict import client
from crossfold.predict.client import LostServerError, ask
from crossfold.predict.model import Prediction

GOOD = (
    b'{"predictions": [{"label": "cat", "probabilities": {"cat": 1.0}, "error": null}], '
    b'"model": "zoo", "version": "3"}'
)
CAT = Prediction("cat", {"cat": 1.0}, None, "zoo", "3")

Handler = BaseHTTPRequestHandler
Answer = Callable[[Handler], None]


def good(handler: Handler) -> None:
    _send(handler, 200, GOOD)


def unusable(handler: Handler) -> None:
    _send(handler, 422, b'{"predictions": [{"label": null, "probabilities": {}, "error": "bad"}]}')


def refusing(handler: Handler) -> None:
    _send(handler, 413, b"too large")


def strange(handler: Handler) -> None:
    _send(handler, 200, b"<html>")


def slow(handler: Handler) -> None:
    handler.connection.recv(1)  # until the client goes


def lost(handler: Handler) -> None:
    handler.close_connection = True


def _send(handler: Handler, status: int, content: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


@contextmanager
def serving(*answers: Answer) -> Iterator[str]:
    """Serve these answers, one a request, for the block; give the address."""
    waiting = list(answers)

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            waiting.pop(0)(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "image.png"
    path.write_bytes(b"image")
    return str(path)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusing, "the server answers 413 Request Entity Too Large"),
        (strange, "the server does not answer with a prediction"),
        (slow, "the server gave no answer within 1 seconds"),
    ],
)
def test_a_request_that_fails_after_a_good_one_is_an_error_in_its_row(
    image: str, monkeypatch: pytest.MonkeyPatch, answer: Answer, error: str
) -> None:
    monkeypatch.setattr(client, "_PATIENCE", 1)
    with serving(good, answer, good) as server:
        assert list(ask(server, [image] * 3)) == [CAT, Prediction(None, {}, error), CAT]


def test_an_image_that_the_server_cannot_use_is_an_error_and_no_failure(image: str) -> None:
    with serving(unusable, good) as server:
        assert list(ask(server, [image] * 2)) == [Prediction(None, {}, "bad"), CAT]


def test_a_server_that_is_lost_ends_the_batch(image: str) -> None:
    with serving(good, lost) as server:
        predictions = ask(server, [image] * 3)
        assert next(predictions) == CAT
        with pytest.raises(LostServerError, match="Remote end closed"):
            next(predictions)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (refusing, r"http://127\.0\.0\.1:.* 413 Request Entity Too Large"),
        (strange, r"http://127\.0\.0\.1:.* Crossfold"),
        (slow, r"http://127\.0\.0\.1:.*: timed out"),
        (lost, r"http://127\.0\.0\.1:.*: Remote end closed"),
    ],
)
def test_a_first_request_that_fails_is_the_users_mistake(
    image: str, monkeypatch: pytest.MonkeyPatch, answer: Answer, message: str
) -> None:
    monkeypatch.setattr(client, "_PATIENCE", 1)
    with serving(answer) as server, pytest.raises(UserError, match=message):
        next(ask(server, [image]))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1:x", "nonnumeric port: 'x'"),
        ("127.0.0.1:80", "unknown url type"),
        ("http://127.0.0.1 :80", "URL can't contain control characters"),
    ],
)
def test_what_is_no_address_is_said(image: str, address: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"{re.escape(address)}: {reason}"):
        next(ask(address, [image]))


def test_a_port_that_speaks_something_else_is_said(image: str) -> None:
    def greet() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b"SSH-2.0-\x1b[31m\r\n")
            connection.recv(65536)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        Thread(target=greet, daemon=True).start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(UserError, match=f"{address}: .*HTTP.*crossfold serve"):
            next(ask(address, [image]))
