"""What test_use.py cannot make a real server's model or client do."""

import asyncio
import contextlib
import json
from typing import Any

from starlette.types import Message

from crossfold.predict import server
from crossfold.predict.connection_limits import BodyReader

BODY = b'{"inputs": ["AAAA"]}'


class _FailingNetwork:
    @property
    def preprocessing(self) -> None:
        raise RuntimeError("no such file: /srv/secret")


def _answer(parts: list[bytes], reader: BodyReader | None = None) -> tuple[int, dict[str, Any]]:
    """Let the application answer a request that announces no length."""
    waiting = [*parts]
    sent: list[Message] = []
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/invocations",
        "headers": [(b"content-type", b"application/json")],
    }

    async def receive() -> Message:
        part = waiting.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(waiting)}

    async def send(message: Message) -> None:
        sent.append(message)

    async def ask() -> None:
        failing: Any = _FailingNetwork()
        model = server.ServedModel("crossfold", "1", failing, reference=None)
        app = server.ScoringApp(model, reader).starlette()
        await app(scope, receive, send)

    with contextlib.suppress(RuntimeError):  # it goes on, for the server's output
        asyncio.run(ask())
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_a_failure_of_the_model_is_one_line_without_its_reason() -> None:
    status, answer = _answer([BODY])
    assert (status, answer["version"]) == (500, "1")
    assert "/srv/secret" not in str(answer)
    assert "\n" not in answer["message"]


def test_a_version_without_prediction_sets_refuses_a_coverage() -> None:
    status, answer = _answer([b'{"inputs": ["A"], "params": {"coverage": 0.9}}'])
    assert status == 400
    assert "no prediction sets" in answer["message"]


def test_a_body_that_grows_too_large_is_refused() -> None:
    status, answer = _answer([BODY] * 9, reader=BodyReader(of_one=100))
    assert status == 413
    assert "100 bytes" in answer["message"]


def test_bodies_that_are_too_large_together_are_refused_until_others_are_answered() -> None:
    reader = BodyReader(of_all=len(BODY))
    assert _answer([BODY, BODY], reader=reader)[0] == 503
    assert _answer([BODY], reader=reader)[0] == 500, "the bytes of the first one are free again"
