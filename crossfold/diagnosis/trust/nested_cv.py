"""Cross-validate the choice of a head."""

from itertools import combinations

import numpy as np

from crossfold.diagnosis.rounding import rounded
from crossfold.evaluation import metrics
from crossfold.records import ClassWeights

from .head_fits import Numbers, ScaledRows, Values, out_of_fold, scores_of_folds
from .records import NestedCV


def nest_cv(
    features: Values,
    labels: Numbers,
    folds: Numbers,
    weight_decays: dict[str, float],
    weighting: ClassWeights = ClassWeights.NONE,
) -> NestedCV:
    """Cross-validate the choice of a head by the run's folds: each in turn is new to the choice.

    The inner folds are the other folds. A head that is trained without two folds serves both as
    outer folds, so F folds need F(F-1)/2 fits for each head.

    S. Varma and R. Simon, "Bias in error estimation when using cross-validation for model
    selection", BMC Bioinformatics 7 (2006), 91.
    """
    numbers = np.unique(folds)
    decays = np.array(list(weight_decays.values()))
    inner = np.zeros((len(decays), len(numbers), len(numbers)))  # head, outer fold, inner fold
    for one, two in combinations(numbers, 2):
        pair = np.isin(folds, (one, two))
        held_out, others = np.flatnonzero(pair), np.flatnonzero(~pair)
        rows = ScaledRows.of(features, labels, others, held_out, weighting)
        predicted = np.stack([rows.predict(float(decay)) for decay in decays])
        of_pair = scores_of_folds(predicted, labels[held_out], folds[held_out])
        inner[:, one, two], inner[:, two, one] = of_pair[:, 1], of_pair[:, 0]
    chosen = inner.sum(axis=2).argmax(axis=0)
    predicted = out_of_fold(features, labels, folds, decays, weighting)
    outer = scores_of_folds(predicted, labels, folds)
    unseen = outer[chosen, np.arange(len(numbers))]
    spread = metrics.mean_std_interval(unseen.tolist(), len(numbers))
    plain = float(outer.mean(axis=1).max())
    names = list(weight_decays)
    return NestedCV(
        macro_f1=rounded(spread.mean),
        plain_macro_f1=rounded(plain),
        optimism=rounded(plain - spread.mean),
        interval=(rounded(spread.interval[0]), rounded(spread.interval[1])),
        num_chosen={names[head]: int((chosen == head).sum()) for head in np.unique(chosen)},
    )
