"""Compare candidates in pairs, on images that neither was trained on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfold.evaluation import metrics
from crossfold.evaluation.paired_interval import Outcomes, macro_f1_interval
from crossfold.records import CandidateComparison


def compare(
    labels: NDArray[Any], predictions: Mapping[int, NDArray[Any]], chosen: int, num_classes: int
) -> dict[int, CandidateComparison]:
    """Compare each candidate with the chosen one.

    Every image was predicted by the networks of the one fold that was not trained on it, and all
    candidates have the same folds. Predictions are therefore paired by image, and differences
    between folds and images cancel. The test is McNemar's, one of two tests with an acceptable rate
    of false alarms in T. G. Dietterich, "Approximate statistical tests for comparing supervised
    classification learning algorithms", Neural Computation 10 (1998), pages 1895-1923. The p-values
    are adjusted for several comparisons by S. Holm, "A simple sequentially rejective multiple test
    procedure", Scandinavian Journal of Statistics 6 (1979), pages 65-70.

    Args:
        labels: The labels of all folds' images, int [N].
        predictions: Each candidate's predicted classes, int [N], by the candidate's index.
        chosen: The index of the chosen candidate.
        num_classes: The number of classes.

    Returns:
        The comparisons by the candidate's index; the chosen one has none.
    """
    of_chosen = predictions[chosen]
    compared = {
        index: _compare(labels, of_chosen, of_other, num_classes)
        for index, of_other in predictions.items()
        if index != chosen
    }
    adjusted = holm([comparison.p_value for comparison in compared.values()])
    return {
        index: comparison.model_copy(update={"p_value": p_value})
        for (index, comparison), p_value in zip(compared.items(), adjusted, strict=True)
    }


def _compare(
    labels: NDArray[Any], of_chosen: NDArray[Any], of_other: NDArray[Any], num_classes: int
) -> CandidateComparison:
    chosen_f1, other_f1 = (
        metrics.macro_f1(labels, predictions, num_classes) for predictions in (of_chosen, of_other)
    )
    only_chosen_right, only_other_right, p_value = metrics.mcnemar(labels, of_chosen, of_other)
    return CandidateComparison(
        difference=chosen_f1 - other_f1,
        interval=macro_f1_interval(Outcomes.tally(labels, of_chosen, of_other), num_classes),
        only_chosen_right=only_chosen_right,
        only_this_right=only_other_right,
        p_value=p_value,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values to control the chance of any false alarm among them (see `compare`)."""
    order = np.argsort(p_values, kind="stable")
    remaining = np.arange(len(p_values), 0, -1)
    raised = np.minimum(np.maximum.accumulate(np.array(p_values)[order] * remaining), 1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = raised
    return [float(p_value) for p_value in adjusted]
