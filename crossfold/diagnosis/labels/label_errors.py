"""List the images whose label may be wrong, by confident learning.

C. Northcutt, L. Jiang and I. Chuang, "Confident learning: estimating uncertainty in dataset
labels", Journal of Artificial Intelligence Research 70, 2021 (arXiv 1911.00068).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crossfold.diagnosis.rounding import DIGITS, rounded, rounded_probabilities
from crossfold.records import Record

if TYPE_CHECKING:
    # Importing it imports torch, which readers of the record do without.
    from crossfold.diagnosis.evidence import Evidence, Numbers


MAX_ISSUES = 1000  # in the record

Probabilities = NDArray[np.float64]


class LabelIssue(Record):
    """An image whose label may be wrong, with the out-of-fold probabilities of two classes."""

    path: str
    label: str
    suggested: str
    label_probability: float
    suggested_probability: float


class ClassLabels(Record):
    """The labels of one class: its images, how many are listed, the estimated number of errors."""

    name: str
    num_images: int
    num_issues: int
    num_errors: float


class LabelErrors(Record):
    """The label issues, most suspicious first.

    `num_issues` counts all, `issues` has at most `MAX_ISSUES`. `num_mistakes` counts the images
    that the chosen candidate predicts differently from their label, out of fold. `error_share` is
    the estimated share of wrong labels.
    """

    num_images: int
    num_mistakes: int
    num_issues: int
    error_share: float
    classes: tuple[ClassLabels, ...]
    issues: tuple[LabelIssue, ...]


def find_label_errors(evidence: Evidence) -> LabelErrors:
    """Rank the images whose label may be wrong.

    Of each class, as many images are listed as it has estimated label errors, those with the lowest
    probability of their label ("prune by class" in section 3.2 of the paper), unless the label is
    the most probable class. The suggested class is the most probable one.
    """
    labels, probabilities = evidence.labels, rounded_probabilities(evidence.probabilities)
    errors = estimated_errors(labels, probabilities)
    listed = issue_positions(labels, probabilities, errors)
    num_classes = len(evidence.classes)
    images_of, listed_of = (
        np.bincount(of, minlength=num_classes).tolist() for of in (labels, labels[listed])
    )
    return LabelErrors(
        num_images=len(labels),
        num_mistakes=int((probabilities.argmax(axis=1) != labels).sum()),
        num_issues=len(listed),
        error_share=rounded(errors.sum() / len(labels)),
        classes=tuple(
            ClassLabels(name=name, num_images=images, num_issues=issues, num_errors=rounded(wrong))
            for name, images, issues, wrong in zip(
                evidence.classes, images_of, listed_of, errors.sum(axis=1).tolist(), strict=True
            )
        ),
        issues=tuple(_issue(evidence, probabilities[i], i) for i in listed[:MAX_ISSUES].tolist()),
    )


def estimated_errors(labels: Numbers, probabilities: Probabilities) -> NDArray[np.float64]:
    """Estimate the number of label errors, float64 [K, K], by given (row) and true class.

    The confident joint, scaled to the images of each class, without its diagonal.
    """
    counts = confident_joint(labels, probabilities)
    of_class = np.bincount(labels, minlength=len(counts))
    errors: NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True)
    errors *= of_class[:, np.newaxis]
    np.fill_diagonal(errors, 0)
    return errors


def confident_joint(labels: Numbers, probabilities: Probabilities) -> Numbers:
    """Count images by given (row) and confidently estimated class, int64 [K, K] (section 3.1).

    A class is confident for an image if its probability reaches the class's mean probability over
    the images with that label. If several are, the most probable class of all counts, as in
    cleanlab; in the paper, the most probable confident one does. The diagonal is at least 1.

    Args:
        labels: the given labels, int64 [N].
        probabilities: out of fold, float64 [N, K].
    """
    num_classes = probabilities.shape[1]
    of_class = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, weights=_of_labels(probabilities, labels), minlength=num_classes)
    # No probability reaches the threshold of a class without images.
    thresholds = np.where(of_class > 0, sums / np.maximum(of_class, 1), np.inf)
    confident = probabilities >= thresholds - 10.0**-DIGITS
    num_confident = confident.sum(axis=1)
    estimated = np.where(num_confident > 1, probabilities.argmax(axis=1), confident.argmax(axis=1))
    known = num_confident > 0
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels[known], estimated[known]), 1)
    np.fill_diagonal(counts, np.maximum(np.diagonal(counts), 1))
    return counts


def issue_positions(
    labels: Numbers, probabilities: Probabilities, errors: NDArray[np.float64]
) -> Numbers:
    """List the positions of the label issues, int64, the lowest probability of the label first.

    One image of each class stays, however many errors are estimated.
    """
    own = _of_labels(probabilities, labels)
    issues: list[int] = []
    for label, wrong in enumerate(errors.sum(axis=1)):
        of_class = np.flatnonzero(labels == label)
        number = min(round(float(wrong)), len(of_class) - 1)
        order = np.argsort(own[of_class], kind="stable")
        issues += of_class[order[: max(number, 0)]].tolist()
    positions = np.array(sorted(issues), np.int64)
    positions = positions[own[positions] < probabilities[positions].max(axis=1)]
    ranked: Numbers = positions[np.argsort(own[positions], kind="stable")]
    return ranked


def _of_labels(probabilities: Probabilities, labels: Numbers) -> NDArray[np.float64]:
    chosen: NDArray[np.float64] = probabilities[np.arange(len(labels)), labels]
    return chosen


def _issue(evidence: Evidence, probabilities: NDArray[np.float64], position: int) -> LabelIssue:
    label, suggested = int(evidence.labels[position]), int(probabilities.argmax())
    return LabelIssue(
        path=evidence.paths[position],
        label=evidence.classes[label],
        suggested=evidence.classes[suggested],
        label_probability=float(probabilities[label]),
        suggested_probability=float(probabilities[suggested]),
    )
