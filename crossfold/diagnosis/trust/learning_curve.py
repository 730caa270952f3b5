"""Estimate what more images are worth: the head's score on shares of the training images."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from crossfold.diagnosis.rounding import rounded
from crossfold.evaluation import metrics
from crossfold.evaluation.metrics import TAILS
from crossfold.records import ClassWeights

from .head_fits import Numbers, ScaledRows, Values
from .records import CurvePoint, Gain, LearningCurve

SHARES = (0.2, 0.35, 0.5, 0.65, 0.8, 1.0)
NUM_DRAWS = 2
TIMES = (1.5, 2.0)  # of the images outside the test split
_NUM_RESAMPLES = 200
_EXPONENTS = np.linspace(0.1, 2.0, 39)
MAX_CLASSES_NAMED = 3

Scores = NDArray[np.float64]


def learning_curve(
    features: Values,
    labels: Numbers,
    folds: Numbers,
    groups: Numbers,
    classes: tuple[str, ...],
    *,
    head: str,
    weight_decay: float,
    weighting: ClassWeights = ClassWeights.NONE,
) -> LearningCurve:
    """Cross-validate a head on shares of the other folds' groups, and fit an inverse power law.

    The shares are nested, divide no group, and have about the same share of each class. The
    intervals draw folds and draws again; folds share images, so they are rather too narrow.

    C. Cortes, L. Jackel, S. Solla, V. Vapnik and J. Denker, "Learning curves: asymptotic values
    and rate of convergence", NIPS 1993, pages 327-334.

    Args:
        features: the head's input [N, C].
        labels: int [N].
        folds: int [N].
        groups: int [N], see `Evidence`.
        classes: the names of the classes.
        head: its name.
        weight_decay: its weight decay.
        weighting: the classes' weights in the loss.
    """
    fit = partial(_fit_head, features, labels, weight_decay, weighting)
    scores, sizes, class_f1 = _measure(fit, labels, folds, groups, len(classes))
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(scores), size=(_NUM_RESAMPLES, len(scores)))
    a, b, c = _fit(sizes, scores.mean(axis=0)[None])
    resampled = _fit(sizes, scores[drawn].mean(axis=1))
    present = len(labels)
    points = tuple(
        CurvePoint(
            num_images=round(size),
            macro_f1=rounded(of_share.mean()),
            lowest=rounded(of_share.min()),
            highest=rounded(of_share.max()),
            class_f1=tuple(map(rounded, of_classes)),
        )
        for size, of_share, of_classes in zip(sizes, scores.T, class_f1, strict=True)
    )
    gains = []
    for times in TIMES:
        gain = float((_at(times * present, a, b, c) - _at(present, a, b, c))[0])
        others = _at(times * present, *resampled) - _at(present, *resampled)
        low, high = np.quantile(others, TAILS)
        gains.append(
            Gain(
                num_more=round((times - 1) * present),
                gain=rounded(gain),
                interval=(rounded(low), rounded(high)),
            )
        )
    return LearningCurve(
        head=head,
        points=points,
        a=rounded(a[0]),
        b=rounded(b[0]),
        c=rounded(c[0]),
        gains=tuple(gains),
        gaining_classes=_gaining(class_f1, classes),
    )


def _fit_head(
    features: Values,
    labels: Numbers,
    weight_decay: float,
    weighting: ClassWeights,
    training: Numbers,
    validation: Numbers,
) -> Numbers:
    return ScaledRows.of(features, labels, training, validation, weighting).predict(weight_decay)


def _measure(
    fit: Callable[[Numbers, Numbers], Numbers],
    labels: Numbers,
    folds: Numbers,
    groups: Numbers,
    num_classes: int,
) -> tuple[Scores, Scores, Scores]:
    """Score a head on each share.

    `fit` trains on the images with some indices, and predicts those with others.

    Returns:
        Macro F1 [D, S] of draws and folds, mean training images [S], and F1 by class [S, K].
    """
    scores, sizes = [], []
    predicted = np.empty((NUM_DRAWS, len(SHARES), len(labels)), np.int64)
    for draw in range(NUM_DRAWS):
        rank = np.random.default_rng(draw).permutation(groups.max() + 1)[groups]
        for fold in np.unique(folds):
            held_out, others = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
            places = group_places(labels[others], rank[others])
            of_fold = []
            for number, share in enumerate(SHARES):
                chosen = others[places < share]
                found = fit(chosen, held_out)
                predicted[draw, number, held_out] = found
                of_fold.append(metrics.macro_f1(labels[held_out], found, num_classes))
                sizes.append(len(chosen))
            scores.append(of_fold)
    f1 = np.array([[_f1(labels, found, num_classes) for found in of_draw] for of_draw in predicted])
    class_f1 = f1.mean(axis=0)
    return np.array(scores), np.reshape(sizes, (-1, len(SHARES))).mean(axis=0), class_f1


def group_places(labels: Numbers, rank: Numbers) -> Scores:
    """Place each image within its class by its group's rank, from 0 to below 1.

    The whole group is at the place of its first image in any class.
    """
    places = np.empty(len(labels))
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        ordered = of_class[np.argsort(rank[of_class], kind="stable")]
        places[ordered] = np.arange(len(ordered)) / len(ordered)
    first = np.full(rank.max() + 1, np.inf)
    np.minimum.at(first, rank, places)
    return first[rank]


def _f1(labels: Numbers, predicted: Numbers, num_classes: int) -> Scores:
    return metrics.class_counts(metrics.confusion_matrix(labels, predicted, num_classes)).f1


def _fit(sizes: Scores, scores: Scores) -> tuple[Scores, Scores, Scores]:
    """Fit a - b * n ** -c to scores [R, S] by least squares: a <= 1, b >= 0, c from a grid."""
    best = np.full(len(scores), np.inf)
    fitted = np.zeros((3, len(scores)))  # a, b, c
    for c in _EXPONENTS:
        x = (sizes / sizes[-1]) ** -c
        centred = x - x.mean()
        b = np.maximum(-(scores @ centred) / (centred @ centred), 0)
        a = np.minimum(scores.mean(axis=1) + b * x.mean(), 1)
        errors = ((a[:, None] - b[:, None] * x - scores) ** 2).sum(axis=1)
        better = errors < best
        best[better] = errors[better]
        fitted[0, better] = a[better]
        fitted[1, better] = b[better] * sizes[-1] ** c
        fitted[2, better] = c
    return fitted[0], fitted[1], fitted[2]


def _at(size: float, a: Scores, b: Scores, c: Scores) -> Scores:
    return a - b * size**-c


def _gaining(class_f1: Scores, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Name the classes whose F1 rises most from half of the images to all."""
    rise = class_f1[-1] - class_f1[SHARES.index(0.5)]
    order = np.argsort(-rise, kind="stable")[:MAX_CLASSES_NAMED]
    return tuple(classes[label] for label in order if rise[label] > 0.01)
