"""The registered model as MLflow loads it: from this code and the network's graph, no pickle.

https://mlflow.org/docs/latest/ml/model/models-from-code/
"""

import base64
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.store.artifact.models_artifact_repo import REGISTERED_MODEL_META_FILE_NAME

# Absolute, also inside the room: MLflow runs a copy of this file outside its package.
from crossfold.errors import UserError
from crossfold.evaluation.prediction_sets.class_scores import require_coverage
from crossfold.evaluation.prediction_sets.reference import Reference
from crossfold.imaging.decoding import BadImage, read_image, refuse_large
from crossfold.network import GRAPH_FILE, SETS_FILE
from crossfold.predict.file_hashes import ARTIFACTS, TAG, registered_hashes, verify_file
from crossfold.predict.model import AskedSets, Prediction, open_network, predict_images

# Environment variable: the only folder that the model may open files below.
IMAGE_ROOT = "CROSSFOLD_IMAGE_ROOT"
# MLflow sets this variable in its scoring server (mlflow.environment_variables). The model's
# requirements pin MLflow, so the tests cover the name.
_SERVING = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"
# https://www.rfc-editor.org/rfc/rfc2397 and https://www.rfc-editor.org/rfc/rfc4648#section-5
_DATA_URL = re.compile(r"^data:[^,]*;base64,", re.IGNORECASE)
_FROM_URL_SAFE = str.maketrans("-_", "+/")


class ImageClassifier(PythonModel):
    """A classifier for MLflow: takes encoded images, gives labels and probabilities."""

    def load_context(self, context: PythonModelContext) -> None:
        """Verify and load the network, and what prediction sets are told from.

        Raises:
            UserError: one of the files is not the one that was registered.
        """
        graph, sets = (Path(context.artifacts[name]) for name in (GRAPH_FILE, SETS_FILE))
        version, registered = _registered(graph.parents[1])
        for path in (graph, sets):
            verify_file(path, registered[f"{ARTIFACTS}/{path.name}"], version)
        self.network, self.reference = open_network(graph), Reference.read(sets)

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Predict the column `image`: an image file's bytes, the same as base64, or a path.

        A model loaded in Python opens files with your permissions. A server opens no path for its
        clients, unless CROSSFOLD_IMAGE_ROOT names a folder. If that variable is set, a server and
        a model in Python both open only files below that folder.

        `params` may have `coverage`, the share of images whose prediction set holds the true label.

        Returns:
            A row per image: `label`, `probabilities` (by class) and `error`. An unusable image has
            only the error. With a coverage, also `decision` (the only label in the set, or
            "unsure"), `set` (a list of labels) and `novel` (None if that can't be told).

        Raises:
            MlflowException: the coverage is not between 0 and 1.
        """
        sets = self._asked_sets((params or {}).get("coverage"))
        images = list(model_input["image"])
        predictions = list(predict_images(self.network, images, _encoded, sets=sets))
        # dtype=object keeps a missing label as None; pandas' strings would make it NaN, which
        # JSON doesn't have.
        frame = pd.DataFrame(predictions, dtype=object)[["label", "probabilities", "error"]]
        return frame.join(_answers(predictions)) if sets else frame

    def _asked_sets(self, coverage: float | None) -> AskedSets | None:
        if coverage is None:
            return None
        try:
            require_coverage(coverage)
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return AskedSets(self.reference, coverage)


def _answers(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """Make columns of the prediction sets; None for an unusable image."""
    rows = [
        (answer.decision, list(answer.labels), answer.novel) if answer else (None, None, None)
        for answer in (prediction.answer for prediction in predictions)
    ]
    return pd.DataFrame(rows, columns=["decision", "set", "novel"], dtype=object)


def _registered(folder: Path) -> tuple[str, dict[str, str]]:
    """Identify a model folder's version, and look up the registered SHA-256 of its files.

    Asks the registry if MLflow knows its address and the folder was downloaded from it. Otherwise
    reads the hashes from the folder itself, which detects damage, but not the replacement of the
    whole folder.
    """
    origin = folder / REGISTERED_MODEL_META_FILE_NAME
    has_registry = mlflow.tracking.is_tracking_uri_set()  # type: ignore[no-untyped-call]
    if origin.exists() and has_registry:
        about = yaml.safe_load(origin.read_text())
        name, number = about["model_name"], str(about["model_version"])
        tags = MlflowClient().get_model_version(name, number).tags
        if hashes := registered_hashes(tags):
            return f"{name} version {number}", hashes
    return str(folder), (Model.load(folder).metadata or {})[TAG]


def _encoded(image: Any) -> bytes:
    if isinstance(image, bytes):
        refuse_large(len(image))
        return image
    if not isinstance(image, str):
        raise BadImage(f"an image is bytes, base64 or a path, not {type(image).__name__}")
    if path := _allowed_file(image):
        return read_image(path)
    refuse_large(len(image) * 3 // 4)
    try:
        return _from_base64(image)
    except ValueError:
        raise BadImage(f"neither {_file()} nor an image as base64") from None


def _from_base64(text: str) -> bytes:
    """Decode base64 in any common form: wrapped, URL-safe, unpadded, or as a data: URL.

    Raises:
        ValueError: the text is not base64.
    """
    encoded = _DATA_URL.sub("", "".join(text.split()), count=1)
    encoded = encoded.translate(_FROM_URL_SAFE).rstrip("=")
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)


def _allowed_file(name: str) -> str | None:
    """Resolve the path of an existing file that may be opened; None for any other name.

    The result doesn't reveal whether a forbidden file exists.
    """
    root = os.environ.get(IMAGE_ROOT)
    if not root and os.environ.get(_SERVING):
        return None
    path = os.path.join(root or "", name)  # noqa: PTH118
    # Not Path.is_file, which raises for a name that is too long: most names here are base64.
    if not os.path.isfile(path):  # noqa: PTH113
        return None
    resolved = os.path.realpath(path)
    return resolved if not root or Path(resolved).is_relative_to(os.path.realpath(root)) else None


def _file() -> str:
    """Describe in words the files that a path may name here, for an error message."""
    if os.environ.get(IMAGE_ROOT):
        return f"a file below {IMAGE_ROOT}"  # without its path: a server's clients read this
    if os.environ.get(_SERVING):
        return f"a file that may be opened ({IMAGE_ROOT} names no folder)"
    return "a file that is here"


mlflow.models.set_model(ImageClassifier())
