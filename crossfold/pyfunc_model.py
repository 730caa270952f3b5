"""The registered model as MLflow loads it: from this code, the network's graph and no pickle.

https://mlflow.org/docs/latest/ml/model/models-from-code/
"""

import base64
import binascii
import os
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from crossfold.classifier import Classifier
from crossfold.prediction import GRAPH_FILE, predict_images


class ImageClassifier(PythonModel):
    """Encoded images in, labels and probabilities out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the network."""
        self.network = Classifier(Path(context.artifacts[GRAPH_FILE]))

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Predict the column `image`: an image file's bytes, these as base64, or its path.

        Returns a row each: `label`, `probabilities` (by class) and `error`; an image that cannot
        be used has only the error.
        """
        predictions = predict_images(self.network, list(model_input["image"]), _encoded)
        # Not as texts: these would hold a missing label as NaN, which JSON does not have.
        return pd.DataFrame(predictions, dtype=object)


def _encoded(image: Any) -> bytes:
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str):
        raise ValueError(f"an image is bytes, base64 or a path, not {type(image).__name__}")
    # Unlike Path.is_file, this says no to a name that is too long for one.
    if os.path.isfile(image):  # noqa: PTH113
        return Path(image).read_bytes()
    try:
        return base64.b64decode(image, validate=True)
    except binascii.Error:
        raise ValueError("neither a file that is here nor an image as base64") from None


mlflow.models.set_model(ImageClassifier())
