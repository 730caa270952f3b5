"""List the images whose features are far from those of their class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crossfold.diagnosis.rounding import DIGITS
from crossfold.records import Record

if TYPE_CHECKING:
    # Importing it imports torch, which readers of the record do without.
    from crossfold.diagnosis.evidence import Evidence, Numbers, Values

NUM_NEIGHBOURS = 5
MIN_JUDGED = 10  # images of a class: with fewer, median and spread mean little
MAX_REFERENCES = 5000  # of a class: bounds memory and time
MAX_OUTLIERS = 1000  # in the record
ROWS_AT_ONCE = 256
# Robust z-scores as in B. Iglewicz and D. Hoaglin, "How to detect and handle outliers", 1993. Their
# 3.5 is for normal variables; distances to neighbours have a longer tail (docs/decisions/049).
MAX_Z_SCORE = 5.0
NORMAL_SPREAD = 1.4826  # standard deviations of a normal variable in a median absolute deviation


class Outlier(Record):
    """An image far from its class: mean distance to the nearest features, and its z-score.

    The distance is 1 minus the cosine.
    """

    path: str
    label: str
    distance: float
    z_score: float


class Outliers(Record):
    """The outliers, the highest z-score first.

    `num_outliers` counts all, `outliers` has at most `MAX_OUTLIERS`. `num_judged` counts the images
    with enough others of their class outside their group. `num_references` is the number of images
    of a class that distances are measured to, evenly chosen; None if they are all.
    """

    num_judged: int
    num_outliers: int
    num_references: int | None
    outliers: tuple[Outlier, ...]


def find_outliers(evidence: Evidence, features: Values) -> Outliers:
    """Rank the images by their distance to the nearest images of their class.

    The distance is judged within the class: it counts if it is above the class's median by more
    than `MAX_Z_SCORE` robust standard deviations. Images of the own group don't count as near.

    Args:
        evidence: the images.
        features: the input of the head, float [N, C].
    """
    distances = np.full(len(evidence.labels), np.inf)
    z_scores = np.full(len(evidence.labels), -np.inf)
    largest = 0
    for label in range(len(evidence.classes)):
        members = np.flatnonzero(evidence.labels == label)
        largest = max(largest, len(members))
        distances[members] = nearest_distances(features, members, evidence.groups)
        judged = members[np.isfinite(distances[members])]
        if len(judged) >= MIN_JUDGED:
            z_scores[judged] = _robust_z_scores(distances[judged])
    positions = np.flatnonzero(z_scores > MAX_Z_SCORE)
    ranked = positions[np.argsort(-z_scores[positions], kind="stable")]
    return Outliers(
        num_judged=int(np.isfinite(z_scores).sum()),
        num_outliers=len(ranked),
        num_references=MAX_REFERENCES if largest > MAX_REFERENCES else None,
        outliers=tuple(
            Outlier(
                path=evidence.paths[i],
                label=evidence.classes[evidence.labels[i]],
                distance=float(distances[i]),
                z_score=float(z_scores[i]),
            )
            for i in ranked[:MAX_OUTLIERS]
        ),
    )


def nearest_distances(features: Values, members: Numbers, groups: Numbers) -> NDArray[np.float64]:
    """Measure the mean distance of a class's images to their nearest ones of other groups.

    Infinite for an image with fewer than `NUM_NEIGHBOURS` others. Rounded, because the last digits
    depend on the machine.

    Args:
        features: float [N, C].
        members: the positions of the class's images, int64 [M].
        groups: int64 [N].
    """
    distances = np.full(len(members), np.inf)
    count = min(len(members), MAX_REFERENCES)
    if count < NUM_NEIGHBOURS:
        return distances
    chosen = members[np.arange(count) * len(members) // count]
    references = _unit_length(features[chosen])
    for start in range(0, len(members), ROWS_AT_ONCE):
        rows = members[start : start + ROWS_AT_ONCE]
        between = 1 - _unit_length(features[rows]) @ references.T
        between[groups[rows][:, np.newaxis] == groups[chosen]] = np.inf
        nearest = np.partition(between, NUM_NEIGHBOURS - 1, axis=1)[:, :NUM_NEIGHBOURS]
        distances[start : start + len(rows)] = nearest.mean(axis=1)
    return np.round(distances, DIGITS) + 0.0  # no -0


def _unit_length(features: Values) -> NDArray[np.float64]:
    wide = features.astype(np.float64)
    lengths: NDArray[np.float64] = np.linalg.norm(wide, axis=1, keepdims=True)
    # A feature of zeros, such as of an image in one colour, has the distance 1 to all.
    return wide / np.where(lengths > 0, lengths, 1)


def _robust_z_scores(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale by median and median absolute deviation; 0 if more than half are equal."""
    from_median = distances - np.median(distances)
    spread = NORMAL_SPREAD * np.median(np.abs(from_median))
    if spread == 0:
        return np.zeros_like(distances)
    rounded: NDArray[np.float64] = np.round(from_median / spread, 4) + 0.0
    return rounded
