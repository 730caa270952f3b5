"""Serve one version on loopback over MLflow's scoring protocol (`crossfold serve`).

It reads the version's network as data; no file of the version is executed.

Status 200 means that every image in the request is predicted. See docs/decisions/023-serving.md.
"""

import os
import signal
import socket
from collections.abc import Sequence
from http import HTTPStatus
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import anyio
import mlflow
import uvicorn
from anyio import CapacityLimiter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from crossfold.evaluation.prediction_sets.reference import Reference

from .connection_limits import BodyReader, LimitedProtocol, allow_connections
from .encoded_images import SERVING, read_encoded
from .model import (
    AskedSets,
    Prediction,
    has_sets,
    load_reference,
    load_version,
    predict_images,
    without_sets,
)
from .scoring_requests import RefusedRequestError, read_request
from .signatures import verify_version

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from crossfold.network.openvino_engine import Classifier

_HOST = "127.0.0.1"
# Seconds that running requests may take to finish after a signal.
_PATIENCE = 5
_MAX_NAMED = 5  # rows in an error's message
_MAX_PATH = 100  # characters of it in an error's message


class _Server(uvicorn.Server):
    """A uvicorn server that prints when it is ready."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            address = f"http://{_HOST}:{self.config.port}"
            print(f"ready: {address}/invocations (Ctrl-C ends it)", flush=True)


class ServedModel(NamedTuple):
    """A version's network, and what its prediction sets are told from; None if it has none."""

    name: str
    version: str
    network: "Classifier"
    reference: Reference | None


Row = dict[str, object]


class ScoringApp:
    """A web application that answers with a model's predictions, its name and its version."""

    def __init__(self, model: ServedModel, reader: BodyReader | None = None) -> None:
        self._model = model
        self._reader = reader or BodyReader()
        self._origin = {"model": model.name, "version": model.version}
        self._headers = {"X-Crossfold-Model": f"{quote(model.name)}/{model.version}"}
        self._limiter = CapacityLimiter(os.cpu_count() or 1)

    def starlette(self) -> Starlette:
        """Build the application that uvicorn runs."""
        return Starlette(
            routes=[
                Route("/invocations", self._invocations, methods=["POST"]),
                Route("/ping", self._healthy),
                Route("/health", self._healthy),
                Route("/version", self._mlflow_version),
            ],
            exception_handlers={
                HTTPException: self._no_such_request,
                RefusedRequestError: self._refused,
                Exception: self._failed,
            },
        )

    async def _invocations(self, request: Request) -> Response:
        content_type = request.headers.get("content-type", "")
        try:
            async with self._reader.body(request) as body:
                rows = await anyio.to_thread.run_sync(
                    self._predict, content_type, body, limiter=self._limiter
                )
        except ClientDisconnect:
            return Response()  # the client is gone, but starlette needs a response
        if unusable := _name_unusable(rows):
            return self._error(HTTPStatus.UNPROCESSABLE_ENTITY, unusable, predictions=rows)
        return JSONResponse({"predictions": rows, **self._origin}, headers=self._headers)

    def _predict(self, content_type: str, body: bytes) -> list[Row]:
        images, coverage = read_request(content_type, body)
        sets = None if coverage is None else AskedSets(self._reference(), coverage)
        predictions = predict_images(self._model.network, images, read_encoded, sets=sets)
        return [_row(prediction, with_set=sets is not None) for prediction in predictions]

    def _reference(self) -> Reference:
        if self._model.reference is None:
            error = without_sets(self._model.name, self._model.version)
            raise RefusedRequestError(HTTPStatus.BAD_REQUEST, f"params: {error}")
        return self._model.reference

    async def _healthy(self, _: Request) -> Response:
        return PlainTextResponse("\n", headers=self._headers)

    async def _mlflow_version(self, _: Request) -> Response:
        return PlainTextResponse(mlflow.__version__, headers=self._headers)

    async def _no_such_request(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.scope["raw_path"].decode("ascii")[:_MAX_PATH]  # without line breaks
        message = f"{request.method} {path}: send POST /invocations"
        return self._error(HTTPStatus(error.status_code), message)

    async def _refused(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedRequestError)
        return self._error(error.status, error.message)

    async def _failed(self, _: Request, error: Exception) -> Response:
        return self._error(
            HTTPStatus.INTERNAL_SERVER_ERROR, "the model failed: see the server's output"
        )

    def _error(self, status: HTTPStatus, message: str, **content: object) -> Response:
        """Build an error response like MLflow's, with one line instead of a stack trace."""
        answer = {"error_code": status.name, "message": message, **content, **self._origin}
        return JSONResponse(answer, status, headers=self._headers)


def _row(prediction: Prediction, *, with_set: bool) -> Row:
    row: Row = {
        "label": prediction.label,
        "probabilities": prediction.probabilities,
        "error": prediction.error,
    }
    if with_set:
        answer = prediction.answer
        row["decision"] = answer and answer.decision
        row["set"] = answer and list(answer.labels)
        row["novel"] = answer and answer.novel
    return row


def _name_unusable(rows: Sequence[Row]) -> str:
    """Describe the rows with errors in one line; "" if no row has one."""
    errors = [f"predictions[{n}]: {row['error']}" for n, row in enumerate(rows) if row["error"]]
    if not errors:
        return ""
    more = "; …" if len(errors) > _MAX_NAMED else ""
    named = "; ".join(errors[:_MAX_NAMED])
    return f"{len(errors)} of {len(rows)} images cannot be used: {named}{more}"


def serve(version: "ModelVersion", port: int, public_key: str | None) -> None:
    """Serve a version until a signal arrives.

    With a `public_key`, in PEM, the version needs a valid signature of it.

    Raises:
        UserError: the version's files are missing, modified, or not signed.
    """
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    try:
        print(f"loading {version.name} version {version.version} …", flush=True)
        app = ScoringApp(_load(version, public_key))
        os.environ[SERVING] = "true"  # no path is opened for a client now
        run(app, port)
    except KeyboardInterrupt:
        print("ended")


def run(app: ScoringApp, port: int) -> None:
    """Answer requests within the limits of `connection_limits` until a signal arrives."""
    config = uvicorn.Config(
        app.starlette(),
        _HOST,
        port,
        log_level="warning",
        http=LimitedProtocol,
        ws="none",
        limit_concurrency=allow_connections(),
        timeout_graceful_shutdown=_PATIENCE,
    )
    _Server(config).run()


def _load(version: "ModelVersion", public_key: str | None) -> ServedModel:
    if public_key:
        verify_version(version, public_key)
    reference = load_reference(version) if has_sets(version) else None
    return ServedModel(version.name, str(version.version), load_version(version), reference)


def _end(signum: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt
