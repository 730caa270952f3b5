"""Repeat cross-validation of the heads with other folds, and cross-validate their choice."""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from crossfold.evaluation import metrics
from crossfold.records import Interval, Record

from .head_fits import (
    Numbers,
    ScaledRows,
    Values,
    out_of_fold,
    rounded,
    scores_of_folds,
)

Scores = NDArray[np.float64]


class RepeatedHead(Record):
    """A head's macro F1 in repeated cross-validation.

    `lowest` and `highest` are the means of single repetitions. `interval` is corrected for shared
    training images, see `metrics.mean_std_interval`. `share_best` is the share of repetitions in
    which it is the best head.
    """

    name: str
    macro_f1: float
    lowest: float
    highest: float
    interval: Interval
    share_best: float


class RepeatedCV(Record):
    """Cross-validation of the heads, repeated with other folds."""

    num_repeats: int
    num_folds: int
    heads: tuple[RepeatedHead, ...]


class NestedCV(Record):
    """Cross-validation of the choice of a head.

    `macro_f1` is the mean over the folds of heads that the other folds chose. `optimism` is
    the best head's plain mean over the folds minus that.
    """

    macro_f1: float
    plain_macro_f1: float
    optimism: float
    interval: Interval
    num_chosen: dict[str, int]  # head -> folds


def repeat_cv(
    features: Values,
    labels: Numbers,
    groups: Numbers,
    weight_decays: dict[str, float],
    *,
    num_folds: int,
    num_repeats: int,
) -> RepeatedCV:
    """Cross-validate the heads with other folds in each repetition, stratified and grouped.

    R. Bouckaert and E. Frank, "Evaluating the replicability of significance tests for comparing
    learning algorithms", PAKDD 2004, pages 3-12.

    Args:
        features: the heads' input [N, C].
        labels: int [N].
        groups: int [N]; no fold divides a group.
        weight_decays: the heads by name.
        num_folds: folds of each repetition.
        num_repeats: repetitions.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    scores = []
    for seed in range(num_repeats):
        folds = np.empty_like(labels)
        splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
        for fold, (_, held_out) in enumerate(splitter.split(features, labels, groups)):
            folds[held_out] = fold
        predicted = out_of_fold(features, labels, folds, _array(weight_decays))
        scores.append(scores_of_folds(predicted, labels, folds))
    return _summarise(np.stack(scores), list(weight_decays), num_folds)


def _array(weight_decays: dict[str, float]) -> Values:
    return np.array(list(weight_decays.values()))


def _summarise(scores: Scores, names: list[str], num_folds: int) -> RepeatedCV:
    """Summarise scores [R, H, F]."""
    of_repeats = scores.mean(axis=2)
    best = of_repeats.argmax(axis=1)
    heads = []
    for number, name in enumerate(names):
        spread = metrics.mean_std_interval(scores[:, number].ravel().tolist(), num_folds)
        heads.append(
            RepeatedHead(
                name=name,
                macro_f1=rounded(spread.mean),
                lowest=rounded(of_repeats[:, number].min()),
                highest=rounded(of_repeats[:, number].max()),
                interval=(rounded(spread.interval[0]), rounded(spread.interval[1])),
                share_best=float((best == number).mean()),
            )
        )
    return RepeatedCV(num_repeats=len(scores), num_folds=num_folds, heads=tuple(heads))


def nest_cv(
    features: Values, labels: Numbers, folds: Numbers, weight_decays: dict[str, float]
) -> NestedCV:
    """Cross-validate the choice of a head by the run's folds: each in turn is new to the choice.

    The inner folds are the other folds. A head that is trained without two folds serves both as
    outer folds, so F folds need F(F-1)/2 fits for each head.

    S. Varma and R. Simon, "Bias in error estimation when using cross-validation for model
    selection", BMC Bioinformatics 7 (2006), 91.
    """
    numbers = np.unique(folds)
    decays = _array(weight_decays)
    inner = np.zeros((len(decays), len(numbers), len(numbers)))  # head, outer fold, inner fold
    for one, two in combinations(numbers, 2):
        pair = np.isin(folds, (one, two))
        held_out, others = np.flatnonzero(pair), np.flatnonzero(~pair)
        rows = ScaledRows.of(features, others, held_out)
        predicted = np.stack([rows.predict(labels[others], float(decay)) for decay in decays])
        of_pair = scores_of_folds(predicted, labels[held_out], folds[held_out])
        inner[:, one, two], inner[:, two, one] = of_pair[:, 1], of_pair[:, 0]
    chosen = inner.sum(axis=2).argmax(axis=0)
    outer = scores_of_folds(out_of_fold(features, labels, folds, decays), labels, folds)
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
