"""Choose a candidate, and correct its score for having been chosen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from crossfold.evaluation.metrics import TAILS, ClassCounts, ratio
from crossfold.records import Choice, CorrectedScore, LeaderboardEntry

NUM_RESAMPLES = 1000
_MOST_DRAWN = 2**22  # images drawn at a time, to bound memory
_MOST_DRAWN_IN_ALL = 2**26  # with more than 67,000 images, there are fewer resamples

Values = NDArray[Any]


@dataclass(frozen=True)
class Rule:
    """The rule that chooses by score among candidates, which are ordered by their loss.

    Of the candidates whose score is at most the leader's `slack` below the leader's, it takes those
    of the least `size`, and of these the one with the highest score. The first one breaks ties.
    """

    slack: NDArray[np.float64]  # [C]
    size: NDArray[np.int64]  # [C]

    @classmethod
    def of(cls, choice: Choice, entries: Sequence[LeaderboardEntry]) -> "Rule":
        """Build the rule that is the setting `choice`.

        For `smallest`, the slack is the standard error of the mean, and the size the number of
        parameters: L. Breiman, J. Friedman, R. Olshen and C. Stone, "Classification and Regression
        Trees" (1984), section 3.4.3.
        """
        if choice is Choice.BEST:
            return cls(np.zeros(len(entries)), np.zeros(len(entries), np.int64))
        errors = [entry.std["macro_f1"] / len(entry.folds) ** 0.5 for entry in entries]
        return cls(np.array(errors), np.array([e.backbone.num_parameters for e in entries]))

    def choose(self, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        """Choose a candidate for each column of scores [C, R]."""
        least = scores.max(axis=0) - self.slack[scores.argmax(axis=0)]
        sizes = np.where(scores >= least, self.size[:, None], np.iinfo(np.int64).max)
        chosen: NDArray[np.int64] = np.where(sizes == sizes.min(axis=0), scores, -1).argmax(axis=0)
        return chosen


def corrected_score(
    labels: Values,
    predictions: Values,
    rule: Rule,
    *,
    chosen: int,
    score: float,
    num_classes: int,
) -> CorrectedScore | None:
    """Estimate the macro F1 of the chosen candidate on images that did not choose it.

    Bootstrap bias-corrected cross-validation: I. Tsamardinos, E. Greasidou and G. Borboudakis,
    "Bootstrapping the out-of-sample predictions for efficient and accurate cross-validation",
    Machine Learning 107 (2018), pages 1895-1922. Images are drawn with replacement, the rule
    chooses on the drawn ones by the macro F1 of their out-of-fold predictions, and the others
    score its choice. Images are drawn within each class, like the stratified folds.

    The authors average the scores of these choices. Here the optimism is the average difference
    from the scores of the chosen candidate on the same images: macro F1 of a few images is biased,
    and the difference is not.

    Args:
        labels: The labels of all folds' images, int [N].
        predictions: The candidates' predicted classes, int [C, N], in the rule's order.
        rule: The rule of the choice.
        chosen: The position of the candidate that the rule chose by the means over the folds.
        score: Its mean macro F1 over the folds.
        num_classes: The number of classes.

    Returns:
        The corrected score; None if there is only one candidate.
    """
    if len(predictions) == 1:
        return None
    groups = _Groups.of(labels, predictions, num_classes)
    drawn, others = groups.resample(np.random.default_rng(0))
    columns = np.arange(drawn.shape[1])
    scores_of_others = groups.macro_f1(others)
    unseen = scores_of_others[rule.choose(groups.macro_f1(drawn)), columns]
    seen = scores_of_others[chosen]
    optimism = float((seen - unseen).mean())
    low, high = np.clip(np.quantile(unseen, TAILS) - seen.mean() + score, 0, 1)
    return CorrectedScore(
        macro_f1=score - optimism, interval=(float(low), float(high)), optimism=optimism
    )


@dataclass(frozen=True)
class _Groups:
    """Images grouped by class and by the predictions of all candidates, ordered by class.

    `labels` and `sizes`, the number of images, are int [G]; `predictions` are int [C, G].
    """

    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    sizes: NDArray[np.int64]
    num_classes: int

    @classmethod
    def of(cls, labels: Values, predictions: Values, num_classes: int) -> "_Groups":
        rows = np.concatenate([labels[None], predictions]).astype(np.int64)
        kinds, sizes = np.unique(rows, axis=1, return_counts=True)
        return cls(kinds[0], kinds[1:], sizes, num_classes)

    def resample(self, rng: np.random.Generator) -> tuple[Values, Values]:
        """Count the images of each group that are drawn, and that are not, [G, R] each."""
        num_images = int(self.sizes.sum())
        num_resamples = min(NUM_RESAMPLES, max(100, _MOST_DRAWN_IN_ALL // num_images))
        starts = np.cumsum(self.sizes) - self.sizes
        size = max(1, _MOST_DRAWN // num_images)
        counted: tuple[list[Values], list[Values]] = ([], [])
        for start in range(0, num_resamples, size):
            times = self._times_drawn(min(size, num_resamples - start), rng)
            for parts, counts in zip(counted, (times, times == 0), strict=True):
                parts.append(np.add.reduceat(counts, starts, axis=1, dtype=np.int32).T)
        drawn, others = (np.concatenate(parts, axis=1) for parts in counted)
        return np.ascontiguousarray(drawn), np.ascontiguousarray(others)

    def _times_drawn(self, num: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Count how often each image is drawn within its class, [num, N]."""
        times = []
        for size in np.bincount(self.labels, self.sizes, self.num_classes).astype(int):
            drawn = rng.integers(size, size=(num, size)) if size else np.empty((num, 0), int)
            drawn += size * np.arange(num)[:, None]
            times.append(np.bincount(drawn.ravel(), minlength=num * size).reshape(num, size))
        return np.concatenate(times, axis=1)

    def macro_f1(self, counts: Values) -> NDArray[np.float64]:
        """Compute each candidate's macro F1 [C, R] from the groups' numbers of images [G, R].

        The mean is over the classes with images: few images may have none of a small class.
        """
        support = _one_hot(self.labels, self.num_classes) @ counts
        present = support > 0
        scores = []
        for predicted in self.predictions:
            hits = _one_hot(self.labels, self.num_classes, predicted == self.labels) @ counts
            in_classes = _one_hot(predicted, self.num_classes) @ counts
            f1 = ClassCounts(hits, in_classes, support).f1
            scores.append(ratio((f1 * present).sum(axis=0), present.sum(axis=0)))
        return np.stack(scores)


def _one_hot(classes: Values, num_classes: int, values: Values | None = None) -> csr_array:
    """Build a sparse matrix [K, G] with `values`, or ones, in the row of each column's class."""
    columns = np.arange(len(classes))
    values = np.ones(len(classes), np.int32) if values is None else values.astype(np.int32)
    return csr_array((values, (classes, columns)), (num_classes, len(classes)))
