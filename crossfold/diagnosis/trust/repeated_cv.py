"""Repeat cross-validation of the heads with other folds."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from crossfold.data.grouping.assignment import assign_groups
from crossfold.data.splits import SplitSettings
from crossfold.diagnosis.rounding import rounded
from crossfold.evaluation import metrics
from crossfold.records import ClassWeights

from .head_fits import Numbers, Values, out_of_fold, scores_of_folds
from .records import RepeatedCV, RepeatedHead

Scores = NDArray[np.float64]


def repeat_cv(
    features: Values,
    labels: Numbers,
    content_hashes: Sequence[str],
    groups: Numbers,
    weight_decays: dict[str, float],
    *,
    num_folds: int,
    num_repeats: int,
    weighting: ClassWeights = ClassWeights.NONE,
) -> RepeatedCV:
    """Cross-validate the heads with other folds in each repetition, stratified and grouped.

    R. Bouckaert and E. Frank, "Evaluating the replicability of significance tests for comparing
    learning algorithms", PAKDD 2004, pages 3-12.

    Args:
        features: the heads' input [N, C].
        labels: int [N].
        content_hashes: the hash of each image's content, [N]; with the seed, they decide the folds.
        groups: int [N]; no fold divides a group.
        weight_decays: the heads by name.
        num_folds: folds of each repetition.
        num_repeats: repetitions.
        weighting: the classes' weights in the loss.
    """
    scores, decays = [], np.array(list(weight_decays.values()))
    for folds in repeated_folds(labels, content_hashes, groups, num_folds, num_repeats):
        predicted = out_of_fold(features, labels, folds, decays, weighting)
        scores.append(scores_of_folds(predicted, labels, folds))
    return _summarise(np.stack(scores), list(weight_decays), num_folds)


def repeated_folds(
    labels: Numbers,
    content_hashes: Sequence[str],
    groups: Numbers,
    num_folds: int,
    num_repeats: int,
) -> Iterator[Numbers]:
    """Yield the fold of each image, int64 [N], for each repetition."""
    for seed in range(num_repeats):
        settings = SplitSettings(num_folds, test_fraction=0, seed=seed)
        _, assigned = assign_groups(
            labels.tolist(), content_hashes, groups.tolist(), settings, hold_out=False
        )
        yield np.array(assigned)


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
