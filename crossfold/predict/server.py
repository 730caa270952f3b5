"""Serve one version on loopback over MLflow's scoring protocol (`crossfold serve`).

`python -m crossfold.predict.server NAME VERSION PORT` starts it. A version is served by the code
that it was registered with, so this module uses little of `crossfold`, and all of that before the
version is loaded.

Status 200 means that every image in the request is predicted. See docs/decisions/023-serving.md.
"""

import os
import signal
import socket
import sys
import tempfile
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

# Crossfold's models have no pickle. If someone has replaced a file with one, it isn't loaded.
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import anyio
import mlflow
import pandas as pd
import uvicorn
from anyio import CapacityLimiter
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.environment_variables import _MLFLOW_IS_IN_SERVING_ENVIRONMENT
from mlflow.pyfunc import PyFuncModel, load_model
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from crossfold.errors import UserError

from .connection_limits import MAX_CONNECTIONS, BodyReader, LimitedProtocol
from .file_hashes import registered_hashes, verify_folder
from .scoring_requests import RefusedRequestError, read_request

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


class ScoringApp:
    """A web application that answers with a model's predictions, its name and its version."""

    def __init__(
        self, model: PyFuncModel, name: str, version: str, reader: BodyReader | None = None
    ) -> None:
        self._model = model
        self._reader = reader or BodyReader()
        self._origin = {"model": name, "version": version}
        self._headers = {"X-Crossfold-Model": f"{quote(name)}/{version}"}
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

    def _predict(self, content_type: str, body: bytes) -> list[dict[str, Any]]:
        images, coverage = read_request(content_type, body)
        # dtype=object, because pandas' strings would turn a missing image into NaN.
        frame = pd.DataFrame({"image": pd.Series(images, dtype=object)})
        if coverage is None:
            found: Any = self._model.predict(frame)
        else:
            self._require_sets()
            found = self._model.predict(frame, params={"coverage": coverage})
        rows: list[dict[str, Any]] = found.to_dict("records")
        return rows

    def _require_sets(self) -> None:
        """Refuse a version from before prediction sets; MLflow would ignore the parameter."""
        if self._model.metadata.signature.params is None:
            raise RefusedRequestError(
                HTTPStatus.BAD_REQUEST,
                "params: this version has no prediction sets: an earlier Crossfold registered it. "
                "Ask without a coverage, or train a new version with `crossfold run`",
            )

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


def _name_unusable(rows: list[dict[str, Any]]) -> str:
    """Describe the rows with errors in one line; "" if no row has one."""
    errors = [f"predictions[{n}]: {row['error']}" for n, row in enumerate(rows) if row["error"]]
    if not errors:
        return ""
    more = "; …" if len(errors) > _MAX_NAMED else ""
    named = "; ".join(errors[:_MAX_NAMED])
    return f"{len(errors)} of {len(rows)} images cannot be used: {named}{more}"


def main(name: str, version: str, port: int) -> None:
    """Serve a version until a signal arrives."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    print(f"loading {name} version {version} …", flush=True)
    with tempfile.TemporaryDirectory(prefix="crossfold-serve-") as folder:
        try:
            model = _load(name, version, folder)
        except UserError as error:
            sys.exit(f"error: {error}")
        except Exception as error:  # a version's files may contain anything
            sys.exit(f"error: {name} version {version} cannot be served: {error}")
        os.environ[_MLFLOW_IS_IN_SERVING_ENVIRONMENT.name] = "true"  # the model opens no paths now
        run(ScoringApp(model, name, version), port)


def run(app: ScoringApp, port: int) -> None:
    """Answer requests within the limits of `connection_limits` until a signal arrives."""
    config = uvicorn.Config(
        app.starlette(),
        _HOST,
        port,
        log_level="warning",
        http=LimitedProtocol,
        ws="none",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=_PATIENCE,
    )
    _Server(config).run()


def _load(name: str, version: str, folder: str) -> PyFuncModel:
    """Download a version into a folder, verify its files and load it."""
    store = os.environ["MLFLOW_TRACKING_URI"]
    source = f"models:/{name}/{version}"
    path = download_artifacts(source, dst_path=folder, tracking_uri=store, registry_uri=store)
    hashes = registered_hashes(MlflowClient(store).get_model_version(name, version).tags)
    if hashes is None:
        print("its files cannot be verified: they were registered without hashes", flush=True)
    else:
        verify_folder(Path(path), hashes, f"{name} version {version}")
    _forget_imports()
    model = load_model(path)
    _require_classifier(model)
    return model


def _forget_imports() -> None:
    """Make the next import of `crossfold` find the version's code, which MLflow puts first."""
    for module in [name for name in sys.modules if name.partition(".")[0] == "crossfold"]:
        del sys.modules[module]


def _require_classifier(model: PyFuncModel) -> None:
    columns = model.metadata.get_output_schema()  # type: ignore[no-untyped-call]
    if columns is None or columns.input_names() != ["label", "probabilities", "error"]:
        raise ValueError("it was not registered by Crossfold")


def _end(signum: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    except KeyboardInterrupt:
        print("ended")
