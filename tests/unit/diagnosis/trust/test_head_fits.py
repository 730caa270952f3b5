import numpy as np
import pytest
import torch
from torch import nn

from crossfold.diagnosis.trust.head_fits import MIN_STD, ScaledRows
from crossfold.records import ClassWeights
from crossfold.training import head
from crossfold.training.feature_rows import FeatureRows

from .drawn import drawn


@pytest.mark.parametrize("num_images", [30, 90])  # fewer and more images than channels
@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("weighting", ClassWeights)
def test_a_quick_head_predicts_as_a_head_that_training_fits(
    num_images: int, num_classes: int, weighting: ClassWeights
) -> None:
    features, labels, _ = drawn(num_images + 60, 1)
    labels %= num_classes
    labels[np.flatnonzero(labels == 1)[::2]] = 0  # unequal classes, one of them mixed
    training, validation = np.arange(num_images), np.arange(num_images, num_images + 60)
    quick = ScaledRows.of(features, labels, training, validation, weighting).predict(0.01)
    linear = nn.Sequential(nn.Linear(40, num_classes))
    stored = features.astype(np.float32)
    rows = FeatureRows(stored, labels, training)
    head.fit_head(linear, rows, 0.01, lambda _: None, weighting)
    with torch.inference_mode():
        slow = linear(torch.from_numpy(stored[validation])).argmax(dim=1).numpy()
    assert (quick == slow).mean() > 0.98
    assert head.MIN_STD == MIN_STD
