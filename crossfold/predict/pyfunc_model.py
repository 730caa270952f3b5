"""The registered model as MLflow loads it: from this code and the network's graph, no pickle.

https://mlflow.org/docs/latest/ml/model/models-from-code/
"""

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

# Absolute, also inside the room: MLflow runs a copy of this file outside its package.
from crossfold.errors import UserError
from crossfold.evaluation.prediction_sets.class_scores import require_coverage
from crossfold.evaluation.prediction_sets.reference import Reference
from crossfold.network import GRAPH_FILE, SETS_FILE
from crossfold.predict.encoded_images import read_encoded
from crossfold.predict.file_hashes import (
    ARTIFACTS,
    ORIGIN_FILE,
    TAG,
    registered_hashes,
    verify_file,
)
from crossfold.predict.model import AskedSets, Prediction, open_network, predict_images


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
        predictions = list(predict_images(self.network, images, read_encoded, sets=sets))
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

    Asks the registry if MLflow knows its address and the folder was downloaded from it by MLflow
    3.17 or earlier, which leaves a file that says so. Otherwise reads the hashes from the folder
    itself, which detects damage, but not the replacement of the whole folder.
    """
    origin = folder / ORIGIN_FILE
    has_registry = mlflow.tracking.is_tracking_uri_set()
    if origin.exists() and has_registry:
        about = yaml.safe_load(origin.read_text())
        name, number = about["model_name"], str(about["model_version"])
        tags = MlflowClient().get_model_version(name, number).tags
        if hashes := registered_hashes(tags):
            return f"{name} version {number}", hashes
    return str(folder), (Model.load(folder).metadata or {})[TAG]


mlflow.models.set_model(ImageClassifier())
