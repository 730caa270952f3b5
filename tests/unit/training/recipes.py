"""Settings, candidates and rows for small fits."""

from typing import Any

import numpy as np

from crossfold.settings import Candidate
from crossfold.training.feature_rows import FeatureRows
from crossfold.training.recipe import FitSettings

BATCH_SIZE = 9  # of 28 training images: the last one joins the batch before
ARCHITECTURE = "shufflenet_v2_x0_5"
SETTINGS = FitSettings(
    num_epochs=3,
    batch_size=BATCH_SIZE,
    seed=4,
    precision="float32",
)
HEAD = Candidate(freeze_backbone=True, train_from="head", weight_decay=0.1)
PARTIAL = Candidate(
    freeze_backbone=False, train_from="conv5", learning_rate=0.002, weight_decay=0.05
)
FULL = PARTIAL.model_copy(update={"train_from": "pixels"})
WILD = PARTIAL.model_copy(update={"learning_rate": 1e30})


def fit_settings(**changes: Any) -> FitSettings:
    return SETTINGS.model_copy(update=changes)


def rows_of(values: Any, labels: Any) -> FeatureRows:
    return FeatureRows(
        np.asarray(values, np.float32), np.asarray(labels, np.int64), np.arange(len(labels))
    )


def stored_as(cut: str) -> str:
    """The name of an array in the file of features of the fixture `features`."""
    return "pixels/32 bilinear 1.0" if cut == "pixels" else f"shuffle/{cut}"
