"""The records of how far a score can be trusted."""

from crossfold.records import Interval, Record


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


class CurvePoint(Record):
    """The mean macro F1 over folds and draws on a number of training images, and its range."""

    num_images: int
    macro_f1: float
    lowest: float
    highest: float
    class_f1: tuple[float, ...]


class Gain(Record):
    """The estimated gain of macro F1 by more images, like the present ones."""

    num_more: int
    gain: float
    interval: Interval


class LearningCurve(Record):
    """Points, the fitted curve at more images, and the classes that gain most by more images.

    The curve is a - b * n ** -c.
    """

    head: str
    points: tuple[CurvePoint, ...]
    a: float
    b: float
    c: float
    gains: tuple[Gain, ...]
    gaining_classes: tuple[str, ...]

    @property
    def can_extrapolate(self) -> bool:
        """Whether the interval of the first gain is narrower than the curve's rise so far."""
        low, high = self.gains[0].interval
        return high - low < 2 * max(self.points[-1].macro_f1 - self.points[0].macro_f1, 0.02)


class PermutationTest(Record):
    """The balanced accuracy of a ridge classifier, out of fold, and what permuted labels reach."""

    balanced_accuracy: float
    best_permuted: float
    p_value: float
    num_permutations: int
    num_images: int


class Power(Record):
    """What McNemar's test of two models on the same test images can show, 4 times in 5.

    `disagreement` is the share of images that only one of two models has right, taken from the
    candidates' out-of-fold predictions. `smallest_difference` is one of accuracy.
    `num_needed` is the number of test images for a difference of accuracy.
    """

    num_test: int
    disagreement: float
    smallest_difference: float
    num_needed: dict[float, int]


class LeakageScores(Record):
    """A head's scores in repeated cross-validation; `lowest` and `highest` are of macro F1."""

    macro_f1: float
    lowest: float
    highest: float
    accuracy: float


class LeakageCheck(Record):
    """A head's scores with folds that keep ties together, and with folds that draw images alone.

    `ties` says what ties images. `num_groups` counts tied sets and images without a tie. Of
    `num_test` test images, `num_test_near_training` look nearly like a training image.
    """

    head: str
    ties: str
    num_images: int
    num_groups: int
    num_folds: int
    num_repeats: int
    together: LeakageScores
    alone: LeakageScores
    num_test: int
    num_test_near_training: int

    @property
    def optimism(self) -> float:
        """By how much macro F1 is higher if folds draw images alone."""
        return self.alone.macro_f1 - self.together.macro_f1

    @property
    def is_clear(self) -> bool:
        """Whether every repetition that draws images alone scores above every other one."""
        return self.alone.lowest > self.together.highest
