import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from crossfold.records import ClassWeights
from crossfold.training.class_weights import class_weights


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.repeat([0, 1, 2], [50, 9, 1])
    found = class_weights(labels, 3, ClassWeights.BALANCED)
    assert found is not None
    np.testing.assert_allclose(
        found, compute_class_weight("balanced", classes=np.arange(3), y=labels)
    )
    assert class_weights(labels, 3, ClassWeights.NONE) is None


def test_a_class_that_a_fold_lacks_changes_no_mean() -> None:
    labels = np.repeat([0, 2], [30, 10])
    found = class_weights(labels, 4, ClassWeights.BALANCED)
    assert found is not None
    assert found[labels].mean() == pytest.approx(1) and found[[1, 3]].tolist() == [0, 0]
