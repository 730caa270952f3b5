"""Test whether the features tell anything about the labels."""

import numpy as np

from crossfold.diagnosis.rounding import rounded

from .head_fits import MIN_STD, Numbers, Values
from .records import PermutationTest

MAX_IMAGES = 2000
_PENALTY = 0.1  # of the mean squared length of an image's features
_MOST_AT_A_TIME = 2**23  # numbers of the scores of some permutations


def permutation_test(
    features: Values, labels: Numbers, folds: Numbers, groups: Numbers, *, num_permutations: int
) -> PermutationTest:
    """Compare a classifier on the labels with the same on permuted labels.

    The classifier is a ridge regression on the classes, whose matrices do not depend on the labels,
    so that a permutation costs one product. Labels are exchanged between groups.

    P. Good, "Permutation tests" (2000); the p-value is that of B. Phipson and G. Smyth,
    "Permutation p-values should never be zero", 2010.

    Each group must hold one class, see `has_mixed_groups`.
    """
    chosen = _evenly(labels, groups, MAX_IMAGES)
    features, labels, folds = features[chosen], labels[chosen], folds[chosen]
    present, of_group = np.unique(groups[chosen], return_inverse=True)
    of_groups = np.empty(len(present), np.int64)
    of_groups[of_group] = labels
    rng = np.random.default_rng(0)
    permuted = np.stack([rng.permutation(of_groups)[of_group] for _ in range(num_permutations)])
    scores = _balanced_accuracies(_smoothers(features, folds), np.vstack([labels[None], permuted]))
    real, others = scores[0], scores[1:]
    at_least = int((others >= real - 1e-9).sum())
    return PermutationTest(
        balanced_accuracy=rounded(real),
        best_permuted=rounded(others.max()),
        p_value=(1 + at_least) / (1 + num_permutations),
        num_permutations=num_permutations,
        num_images=len(labels),
    )


def has_mixed_groups(labels: Numbers, groups: Numbers) -> bool:
    """Tell whether a group holds several classes: its labels can't be exchanged as one."""
    _, first, of_group = np.unique(groups, return_index=True, return_inverse=True)
    return bool((labels[first][of_group] != labels).any())


def _evenly(labels: Numbers, groups: Numbers, most: int) -> Numbers:
    """Choose at most `most` images, the same share of each class, in the order of the groups."""
    if len(labels) <= most:
        return np.arange(len(labels))
    order = np.lexsort((groups, labels))
    return np.sort(order[np.arange(most) * len(labels) // most])


def _smoothers(features: Values, folds: Numbers) -> list[tuple[Values, Values, Values]]:
    """Compute for each fold its rows [V], the others [T], and the matrix [V, T] between them."""
    values = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    std = values.std(axis=0)
    values /= np.maximum(std, MIN_STD * std.mean() or 1)
    products = values @ values.T
    penalty = _PENALTY * np.diagonal(products).mean()
    smoothers = []
    for fold in np.unique(folds):
        held_out, others = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        inner = products[np.ix_(others, others)]
        inner[np.diag_indices_from(inner)] += penalty
        between = products[np.ix_(held_out, others)]
        smoothers.append((held_out, others, np.linalg.solve(inner, between.T).T))
    return smoothers


def _balanced_accuracies(smoothers: list[tuple[Values, Values, Values]], labels: Numbers) -> Values:
    """Compute the balanced accuracy out of fold under each labelling [P, N], float64 [P]."""
    num_classes = int(labels.max()) + 1
    size = max(1, _MOST_AT_A_TIME // (num_classes * labels.shape[1]))
    return np.concatenate(
        [
            _of_some(smoothers, labels[start : start + size], num_classes)
            for start in range(0, len(labels), size)
        ]
    )


def _of_some(
    smoothers: list[tuple[Values, Values, Values]], labels: Numbers, num_classes: int
) -> Values:
    one_hot = np.eye(num_classes)[labels]  # [P, N, K]
    hits = np.zeros(labels.shape, np.bool_)
    for held_out, others, smoother in smoothers:
        targets = one_hot[:, others]
        targets -= targets.mean(axis=1, keepdims=True)
        scores = np.einsum("vt,ptk->pvk", smoother, targets, optimize=True)
        scores += one_hot[:, others].mean(axis=1, keepdims=True)
        hits[:, held_out] = scores.argmax(axis=2) == labels[:, held_out]
    of_class = one_hot.sum(axis=1)  # [P, K]
    recall = np.einsum("pn,pnk->pk", hits, one_hot) / np.maximum(of_class, 1)
    accuracies: Values = recall.sum(axis=1) / (of_class > 0).sum(axis=1)
    return accuracies
