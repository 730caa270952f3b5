import numpy as np
import pytest
from sklearn import metrics as sk

from crossfold.evaluation import curves as evaluated
from tests.unit.evaluation.test_metrics import random_case


def test_curves_match_sklearn() -> None:
    labels, probabilities = random_case(60, 4)
    roc, pr = (
        evaluated.roc_curves(labels, probabilities),
        evaluated.pr_curves(labels, probabilities),
    )
    positives = np.eye(4)[labels]
    assert roc.micro.area == pytest.approx(
        sk.roc_auc_score(positives, probabilities, average="micro")
    )
    assert pr.micro.area == pytest.approx(
        sk.average_precision_score(positives, probabilities, average="micro")
    )
    for i in range(4):
        fpr, tpr, thresholds = sk.roc_curve(positives[:, i], probabilities[:, i])
        assert (roc.per_class[i].x, roc.per_class[i].y) == (tuple(fpr), tuple(tpr))
        assert roc.per_class[i].thresholds == (1.0, *thresholds[1:])
        precision, recall, thresholds = sk.precision_recall_curve(
            positives[:, i], probabilities[:, i]
        )
        assert (pr.per_class[i].x, pr.per_class[i].y) == (tuple(recall), tuple(precision))
        assert pr.per_class[i].thresholds == (*thresholds, 1.0)


@pytest.mark.parametrize("kind", ["roc", "pr"])
def test_thinned_curves_keep_their_ends_area_and_shape(kind: str) -> None:
    labels, probabilities = random_case(5000, 3)
    positives = np.eye(3)[labels]
    if kind == "roc":
        curves, area = evaluated.roc_curves(labels, probabilities), sk.roc_auc_score
    else:
        curves, area = evaluated.pr_curves(labels, probabilities), sk.average_precision_score
    truths = [*positives.T, positives.ravel()]
    one_vs_rest = [*probabilities.T, probabilities.ravel()]
    for curve, truth, score in zip(
        [*curves.per_class.values(), curves.micro], truths, one_vs_rest, strict=True
    ):
        assert len(curve.x) == len(curve.y) == len(curve.thresholds)
        assert 100 < len(curve.x) <= evaluated.MAX_CURVE_POINTS
        assert np.isfinite(curve.thresholds).all()
        if kind == "roc":
            assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
        else:
            assert (curve.x[0], curve.x[-1], curve.y[-1]) == (1, 0, 1)
        assert curve.area == pytest.approx(area(truth, score))
        assert abs(np.trapezoid(curve.y, curve.x)) == pytest.approx(curve.area, abs=0.005)


def test_a_class_without_positives_or_negatives_has_a_reason_and_no_curve() -> None:
    labels = np.zeros(4, np.int64)
    probabilities = np.array([[0.6, 0.4], [0.7, 0.3], [0.2, 0.8], [0.9, 0.1]])
    for curves in (
        evaluated.roc_curves(labels, probabilities),
        evaluated.pr_curves(labels, probabilities),
    ):
        assert curves.per_class == {}
        assert curves.left_out == {0: "no image of another class", 1: "no image of this class"}
        assert np.isfinite(curves.micro.area)
