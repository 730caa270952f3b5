"""Query a served model over MLflow's scoring protocol, one image at a time.

https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/
"""

import base64
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence

from crossfold.errors import UserError
from crossfold.evaluation.prediction_sets.reference import Answer
from crossfold.imaging.decoding import BadImage, read_image

from .model import Prediction

# Seconds; the longest that MLflow's server works on a request.
_PATIENCE = 60


class LostServerError(Exception):
    """A server that has predicted images can no longer be reached."""


class _UnpredictedError(Exception):
    """A server fails to predict one image; it may predict others."""


def ask(
    server: str, paths: Sequence[str], coverage: float | None = None
) -> Generator[Prediction, None, None]:
    """Predict image files in order with the server at a URL; send each file unchanged.

    With a coverage, ask for prediction sets too. After the first prediction, a refused request or a
    timeout becomes that image's error.

    Raises:
        UserError: no server answers there, or it doesn't serve a model of Crossfold.
        LostServerError: the server has stopped answering after its first prediction.
    """
    has_predicted = False
    for path in paths:
        try:
            encoded = read_image(path)
        except OSError as error:
            yield Prediction(None, {}, error.strerror or str(error))
        except BadImage as error:
            yield Prediction(None, {}, str(error))
        else:
            ask_once = _ask_again if has_predicted else _ask_first
            yield ask_once(server, encoded, coverage)
            has_predicted = True


def _ask_first(server: str, encoded: bytes, coverage: float | None) -> Prediction:
    try:
        return _ask(server, encoded, coverage)
    except _UnpredictedError as error:
        raise UserError(
            f"the server at {server} {error}. It may not serve a model of Crossfold"
            f"{' with prediction sets' if coverage else ''}; see its log"
        ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(
            f"no model answers at {server}: {_reason(error)}. Start one with `crossfold serve`"
        ) from None


def _ask_again(server: str, encoded: bytes, coverage: float | None) -> Prediction:
    try:
        return _ask(server, encoded, coverage)
    except _UnpredictedError as error:
        return Prediction(None, {}, f"the server {error}")
    except (OSError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", error), TimeoutError):
            return Prediction(None, {}, f"the server gave no answer within {_PATIENCE} seconds")
        raise LostServerError(
            f"the server at {server} no longer answers: {_reason(error)}"
        ) from None


def _ask(server: str, encoded: bytes, coverage: float | None) -> Prediction:
    """Request the prediction of one image.

    Raises:
        _UnpredictedError: the answer is an error, or not a prediction.
        OSError, http.client.HTTPException: no answer arrives, or it is not HTTP.
        ValueError: the URL is invalid.
    """
    body: dict[str, object] = {"dataframe_records": [{"image": base64.b64encode(encoded).decode()}]}
    if coverage is not None:
        body["params"] = {"coverage": coverage}
    answer = _post(f"{server.rstrip('/')}/invocations", json.dumps(body).encode())
    try:
        content = json.loads(answer)
        (row,) = content["predictions"]
        origin = (content.get("model"), content.get("version"))  # missing in MLflow's own server
        of_sets = None
        if coverage is not None and row["error"] is None:
            of_sets = Answer(tuple(row["set"]), row["novel"])
        return Prediction(row["label"], row["probabilities"], row["error"], *origin, of_sets)
    except (KeyError, TypeError, ValueError):
        raise _UnpredictedError("does not answer with a prediction") from None


def _post(address: str, body: bytes) -> bytes:
    # Bypass a proxy from the environment: on its machine, this address is another server.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with direct.open(request, timeout=_PATIENCE) as answer:
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.UNPROCESSABLE_ENTITY:  # the body has the image's error
            return error.read()
        raise _UnpredictedError(f"answers {error.code} {error.reason}") from None


def _reason(error: Exception) -> str:
    # This error's text is whatever a non-HTTP server sent, which may be unsafe on a terminal.
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, OSError):
        return "it does not speak HTTP"
    return str(getattr(error, "reason", error))
