"""Test whether facts that don't need a look at the object tell the classes apart.

A network learns whatever tells the classes apart on its training images. If the classes come from
two cameras, or have other borders, it may learn that, and fail on images from elsewhere: R. Geirhos
and others, "Shortcut learning in deep neural networks", Nature Machine Intelligence 2 (2020), pages
665-673.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crossfold.diagnosis.rounding import rounded
from crossfold.evaluation.metrics import ClassCounts, class_counts, confusion_matrix, scores
from crossfold.evaluation.metrics import bootstrap_intervals as intervals
from crossfold.records import Interval, Record, Scores

from .facts import BORDER, CAMERA, COLOUR, DIMENSIONS, FILE, Values, read_facts

if TYPE_CHECKING:
    from crossfold.diagnosis.evidence import Evidence, Numbers

MAX_IMAGES = 2000
# With more, these images are too few of each class, and the trees take too much memory.
MAX_CLASSES = 500
ALL = "all"
# The names of the sets in texts.
TITLES = {
    FILE: "File size and format",
    DIMENSIONS: "Width and height",
    CAMERA: "Camera",
    BORDER: "Border",
    COLOUR: "Mean colour",
    ALL: "All of these together",
}
# A lemon is yellow: mean colour may be what makes a class.
RARELY_LEGITIMATE = (FILE, DIMENSIONS, CAMERA, BORDER)
# For a warning; docs/decisions/051-shortcuts.md has the cases that they come from.
MIN_SHARE = 0.6  # of the model's lead over chance
MIN_LEAD = 0.1  # over chance, in macro F1
MIN_CLASS_SHARE = 0.95  # of the model's lead over chance, in the F1 of one class
MIN_CLASS_F1 = 0.9
MIN_CLASS_IMAGES = 10


class FactsScore(Record):
    """How well one set of facts tells the classes apart, in cross-validation.

    `chance` is the expected macro F1 of the same predictions if the labels were permuted. `share`
    is the lead over chance as a share of the model's; None if the model has no lead. `told_classes`
    are classes that the facts recognise about as well as the model does.
    """

    facts: str
    macro_f1: float
    interval: Interval
    chance: float
    share: float | None
    told_classes: tuple[str, ...]

    @property
    def title(self) -> str:
        """The name of the set in texts."""
        return TITLES[self.facts]

    @property
    def is_suspicious(self) -> bool:
        """Tell whether the model may have learned these facts instead of the object."""
        has_lead = self.interval[0] > self.chance and self.macro_f1 - self.chance >= MIN_LEAD
        is_near = self.share is None or self.share >= MIN_SHARE
        is_high = (has_lead and is_near) or bool(self.told_classes)
        return self.facts in RARELY_LEGITIMATE and is_high


class Shortcuts(Record):
    """The scores of each set of facts, and of the model on the same images.

    `num_images` of `num_all` images outside the test split were used. `constant` are the sets that
    are the same for all of them, without a score.
    """

    num_images: int
    num_all: int
    model_macro_f1: float
    model_interval: Interval
    scores: tuple[FactsScore, ...]
    constant: tuple[str, ...]

    @property
    def suspicious(self) -> tuple[FactsScore, ...]:
        """The sets that the model may have learned instead of the object."""
        return tuple(score for score in self.scores if score.is_suspicious)

    @property
    def constant_titles(self) -> tuple[str, ...]:
        """The names of the sets that are the same for all images."""
        return tuple(TITLES[facts] for facts in self.constant)

    @property
    def summary(self) -> Scores:
        """The highest macro F1 of facts that are rarely legitimate, for logs."""
        found = [one.macro_f1 for one in self.scores if one.facts in RARELY_LEGITIMATE]
        return {"shortcut_macro_f1": max(found)} if found else {}


def find_shortcuts(evidence: Evidence) -> Shortcuts:
    """Score each set of facts on the run's folds, beside the model on the same images."""
    rows = _spread(evidence.labels)
    geometry = evidence.leaderboard.chosen.backbone.preprocessing.geometry
    return score_facts(
        read_facts(evidence.table, rows, geometry),
        evidence.labels[rows],
        evidence.folds[rows],
        evidence.probabilities[rows],
        evidence.classes,
        num_all=len(evidence.labels),
    )


def score_facts(
    facts: dict[str, Values],
    labels: Numbers,
    folds: Numbers,
    probabilities: NDArray[Any],
    classes: tuple[str, ...],
    *,
    num_all: int,
) -> Shortcuts:
    """Score each set of facts, float64 [N, facts], and all together.

    Args:
        facts: the sets by their names, see `read_facts`.
        labels: int64 [N].
        folds: int64 [N].
        probabilities: the model's out-of-fold probabilities, [N, K].
        classes: the names of the K classes.
        num_all: the number of images of which these N are a sample.
    """
    varying = {name: x for name, x in facts.items() if (x != x[0]).any()}
    if len(varying) > 1:
        varying[ALL] = np.hstack(list(varying.values()))
    model = scores(labels, probabilities)["macro_f1"]
    model_counts = _counts(labels, probabilities)
    return Shortcuts(
        num_images=len(labels),
        num_all=num_all,
        model_macro_f1=rounded(model),
        model_interval=_interval(labels, probabilities),
        scores=tuple(
            _score(
                name,
                labels,
                _out_of_fold(varying[name], labels, folds, len(classes)),
                model_counts,
                classes,
            )
            for name in TITLES
            if name in varying
        ),
        constant=tuple(name for name in TITLES if name in facts and name not in varying),
    )


def _spread(labels: Numbers) -> Numbers:
    """Choose at most MAX_IMAGES images, evenly in each class: whole small classes first.

    Returns:
        Positions, ascending.
    """
    sizes = np.bincount(labels)
    most = int(sizes.max())
    while np.minimum(sizes, most).sum() > MAX_IMAGES:
        most -= 1
    chosen = []
    for label in range(len(sizes)):
        of_class = np.flatnonzero(labels == label)
        number = min(len(of_class), most)
        chosen.append(of_class[np.arange(number) * len(of_class) // max(number, 1)])
    return np.sort(np.concatenate(chosen))


def _out_of_fold(x: Values, labels: Numbers, folds: Numbers, num_classes: int) -> Values:
    """Predict each image by trees that are trained on the other folds, [N, K].

    Extremely randomised trees: P. Geurts, D. Ernst and L. Wehenkel, Machine Learning 63 (2006),
    pages 3-42. The seed decides them; the number of threads does not.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    probabilities = np.zeros((len(labels), num_classes))
    for fold in np.unique(folds):
        held_out = folds == fold
        trees = ExtraTreesClassifier(
            25, min_samples_leaf=2, class_weight="balanced", n_jobs=1, random_state=0
        )
        trees.fit(x[~held_out], labels[~held_out])
        of_known = np.ix_(np.flatnonzero(held_out), trees.classes_)
        probabilities[of_known] = trees.predict_proba(x[held_out])
    return probabilities


def _score(
    name: str,
    labels: Numbers,
    probabilities: Values,
    model: ClassCounts,
    classes: tuple[str, ...],
) -> FactsScore:
    counts = _counts(labels, probabilities)
    chances = _chances(counts)
    macro_f1, chance = float(counts.f1.mean()), float(chances.mean())
    lead = float(model.f1.mean()) - chance
    # A class of nearly all images has a high F1 by chance.
    is_near = counts.f1 - chances >= MIN_CLASS_SHARE * (model.f1 - chances)
    told = is_near & (counts.f1 >= MIN_CLASS_F1) & (counts.support >= MIN_CLASS_IMAGES)
    return FactsScore(
        facts=name,
        macro_f1=rounded(macro_f1),
        interval=_interval(labels, probabilities),
        chance=rounded(chance),
        share=rounded(max(0.0, macro_f1 - chance) / lead) if lead > 0 else None,
        told_classes=tuple(classes[label] for label in np.flatnonzero(told)),
    )


def _counts(labels: Numbers, probabilities: NDArray[Any]) -> ClassCounts:
    predictions, num_classes = probabilities.argmax(axis=1), probabilities.shape[1]
    return class_counts(confusion_matrix(labels, predictions, num_classes))


def _chances(counts: ClassCounts) -> Values:
    """Compute the expected F1 of each class over all permutations of the labels, [K].

    The hits of a class are hypergeometric then: n m / N of its n images and m predictions.
    """
    n, m, total = counts.support, counts.predicted, counts.support.sum()
    expected: Values = 2 * n * m / (total * (n + m))
    return expected


def _interval(labels: Numbers, probabilities: NDArray[Any]) -> Interval:
    low, high = intervals(labels, probabilities)["macro_f1"]
    return rounded(low), rounded(high)
