"""Asking a model that is served: MLflow's scoring protocol, an image at a time.

https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/
"""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from typing import Any

from crossfold.errors import UserError
from crossfold.images import BadImage
from crossfold.prediction import Prediction, read_image

# Seconds; what MLflow's server gives a request at the most.
_PATIENCE = 60


def ask(server: str, paths: Sequence[str]) -> Generator[Prediction, None, None]:
    """Let the server at an address predict image files, in order, each sent whole.

    Raises:
        UserError: no server answers there, or it is not one that serves such a model.
    """
    for path in paths:
        try:
            encoded = read_image(path)
        except OSError as error:
            yield Prediction(None, {}, error.strerror or str(error))
        except BadImage as error:
            yield Prediction(None, {}, str(error))
        else:
            yield _ask(server, encoded)


def _ask(server: str, encoded: bytes) -> Prediction:
    body = {"dataframe_records": [{"image": base64.b64encode(encoded).decode()}]}
    answer = _post(f"{server.rstrip('/')}/invocations", json.dumps(body).encode(), server)
    try:
        (row,) = answer["predictions"]
        return Prediction(row["label"], row["probabilities"], row["error"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"the server at {server} does not serve a model of Crossfold") from None


def _post(address: str, body: bytes, server: str) -> Any:
    # Not through a proxy that the environment may name: it would look for the server elsewhere.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with direct.open(request, timeout=_PATIENCE) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise UserError(
            f"the server at {server} answers {error.code} {error.reason}: it does not serve a "
            "model of Crossfold, or its own log says more"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"no model answers at {server}: {reason}. To serve one: make serve"
        ) from None
