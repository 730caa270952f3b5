"""The JSON files that the steps exchange, as frozen, validated, typed records.

`Record.read` reads a record and `Record.write` writes it. The files' keys are the names of the
fields, in their order. Scores are keyed by the metric's name, see `evaluation.metrics.METRICS`.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer

from crossfold.imaging.preprocessing import Preprocessing
from crossfold.step.files import replaced_whole

Scores = dict[str, float]
Interval = tuple[float, float]  # 95 %


class Record(BaseModel):
    """A frozen record that ignores unknown keys, because a later version may add some."""

    model_config = ConfigDict(frozen=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record from its JSON file."""
        return cls.model_validate_json(path.read_bytes())

    def to_json(self) -> str:
        """Serialise the record to JSON, with numbers in the format of Python's json."""
        return json.dumps(self.model_dump())

    def write(self, path: Path) -> None:
        """Write the record to its JSON file."""
        path.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def recall(cls, path: Path) -> Self | None:
        """Read a record from `remember`; None if the file is missing or has no such record."""
        try:
            return cls.read(path)
        except (OSError, ValidationError):
            return None

    def remember(self, path: Path) -> None:
        """Write a record that only saves time: if that is not possible, it is not kept.

        The disk may be full or read-only, or another command may write the same file.
        """
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced_whole(path) as part:
                self.write(part)


class _WithScores(Record):
    """A record with its scores among its other keys in JSON, all in alphabetical order."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float] = Field(init=False)

    @property
    def scores(self) -> Scores:
        """The scores by the metric's name."""
        return self.__pydantic_extra__

    @model_serializer(mode="wrap")
    def _sorted(self, serialize: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        return dict(sorted(serialize(self).items()))


# Backbones


class CheckedNetwork(Record):
    """A network that can be trained.

    `source` is where its weights are in their file, if nested. `num_bytes_stored` is the size of
    what extraction stores of one image: its float32 values at all cuts except `pixels`.
    """

    source: str
    preprocessing: Preprocessing
    num_bytes_stored: int


class PrecisionComparison(Record):
    """Heads on int8 features compared with heads on float32 features of the same images.

    Both are cross-validated with the run's folds. `interval` belongs to `difference`, int8's macro
    F1 minus float32's. `num_different` counts the images that the two predict differently.
    `p_value` is McNemar's.
    """

    num_images: int
    float32_macro_f1: float
    int8_macro_f1: float
    difference: float
    interval: Interval
    num_different: int
    p_value: float

    @property
    def summary(self) -> str:
        """The difference in words."""
        low, high = self.interval
        return (
            f"{self.difference:+.4f} ({low:+.4f} to {high:+.4f}), {self.num_different} of "
            f"{self.num_images} predictions differ"
        )


class ChosenPrecision(Record):
    """The precision of a frozen prefix with `model.precision` int8 or auto, and the reason.

    `comparison` is None if the processor has no instructions for int8.
    """

    precision: str
    reason: str
    comparison: PrecisionComparison | None = None


class BackboneFacts(Record):
    """A backbone of a run: its settings, and its cost.

    `num_parameters` counts the whole network's, and `num_bytes` are its size on disk, both with a
    head for the run's classes. `milliseconds` is the median time that one image takes from its
    pixels to the last cut, which varies from run to run; None if nothing is computed
    before training. `precision` is None unless int8 could be chosen.
    """

    name: str
    architecture: str
    weights: str
    preprocessing: Preprocessing
    num_parameters: int
    num_bytes: int
    milliseconds: float | None = None
    precision: ChosenPrecision | None = None

    @property
    def cost(self) -> str:
        """The cost in words."""
        time = "" if self.milliseconds is None else f", {self.milliseconds:.2g} CPU ms an image"
        return (
            f"{self.num_parameters / 1e6:.2f} million parameters, {self.num_bytes / 1e6:.1f} MB"
            f"{time}"
        )


class StoredFeatures(Record):
    """The metadata of a file of features: of one backbone and one shard, or joined."""

    classes: tuple[str, ...]
    shard: int
    backbones: tuple[BackboneFacts, ...]


# Cross-validation


class Choice(StrEnum):
    """How cross-validation chooses a candidate, see `cross_validation.aggregate_cv`."""

    BEST = "best"
    SMALLEST = "smallest"


class ClassWeights(StrEnum):
    """How classes weigh in the loss, see `training.class_weights`."""

    NONE = "none"
    BALANCED = "balanced"


def _is_none(value: object) -> bool:
    return value is None


class NamedCandidate(Record):
    """A candidate of params.yaml with its name; a head has no learning rate.

    `backbone` is None if the run has only one.
    """

    backbone: Annotated[str | None, Field(exclude_if=_is_none)] = None
    freeze_backbone: bool
    learning_rate: Annotated[float | None, Field(exclude_if=_is_none)] = None
    name: str
    train_from: str
    weight_decay: float

    @property
    def hyper_parameters(self) -> dict[str, Any]:
        """The candidate as params.yaml has it."""
        return self.model_dump(exclude={"name"})


def backbone_of(candidate: NamedCandidate, backbones: Sequence[BackboneFacts]) -> BackboneFacts:
    """Look up a candidate's backbone; one that names none has the only one."""
    return next(facts for facts in backbones if candidate.backbone in (None, facts.name))


class Epoch(_WithScores):
    """One epoch of a fit; names of scores have the prefix train_ or val_."""

    epoch: int


class FoldScores(_WithScores):
    """A candidate's scores on one fold; `num_epochs` is None for a head, which has no history."""

    fold: int
    history: tuple[Epoch, ...]
    num_epochs: int | None


class FoldResult(FoldScores):
    """A candidate with its scores on one fold, as train_fold writes it."""

    candidate: NamedCandidate

    @property
    def without_candidate(self) -> FoldScores:
        """The scores without the candidate, as in the leaderboard."""
        return FoldScores.model_validate(self.model_dump(exclude={"candidate"}))


class DivergedResult(Record):
    """A fit with a loss that became NaN or infinite; `diverged` is the epoch, None for a head."""

    candidate: NamedCandidate
    diverged: int | None
    fold: int
    num_epochs: int | None


class FoldResults(Record):
    """One fold's results by candidate, stored as metadata with its out-of-fold predictions."""

    classes: tuple[str, ...]
    backbones: tuple[BackboneFacts, ...]
    results: tuple[FoldResult | DivergedResult, ...]


class CandidateComparison(Record):
    """A candidate compared with the chosen one by out-of-fold predictions of the same images.

    `difference` is the chosen one's macro F1 minus this one's. `p_value` is McNemar's, adjusted by
    Holm for the number of candidates.
    """

    difference: float
    interval: Interval
    only_chosen_right: int  # images
    only_this_right: int
    p_value: float


class LeaderboardEntry(Record):
    """A candidate's mean, standard deviation and interval over the folds.

    `against_chosen` is None for the chosen one.
    """

    candidate: NamedCandidate
    backbone: BackboneFacts
    mean: Scores
    std: Scores
    interval: dict[str, Interval]
    folds: tuple[FoldScores, ...]
    against_chosen: CandidateComparison | None

    @property
    def summary(self) -> Scores:
        """Means and standard deviations under their names in logs: cv_macro_f1, …_std, …"""
        means = {f"cv_{name}": value for name, value in self.mean.items()}
        return means | {f"cv_{name}_std": value for name, value in self.std.items()}

    @property
    def rank(self) -> tuple[float, float]:
        """The sort key that puts the best candidate first: macro F1, then the lower loss."""
        return -self.mean["macro_f1"], self.mean["loss"]


class DivergedFold(Record):
    """A fold in which a candidate diverged; `epoch` is None for a head."""

    fold: int
    epoch: int | None


class DivergedEntry(Record):
    """A candidate that diverged in these folds and so has no mean."""

    candidate: NamedCandidate
    folds: tuple[DivergedFold, ...]


class CorrectedScore(Record):
    """An estimate of the chosen candidate's macro F1 without the optimism of the choice.

    `optimism` is its mean over the folds minus `macro_f1`; see `candidates.choice.corrected_score`.
    """

    macro_f1: float
    interval: Interval
    optimism: float


class Leaderboard(Record):
    """The candidates in cross-validation; `chosen_index` is the position of the chosen one.

    `choice` is how it was chosen. `num_epochs` (None for a head), `temperature` and `corrected` are
    its own; `corrected` is None if it is the only candidate.
    """

    choice: Choice
    classes: tuple[str, ...]
    num_folds: int
    candidates: tuple[LeaderboardEntry, ...]
    diverged: tuple[DivergedEntry, ...]
    chosen_index: int
    num_epochs: int | None
    temperature: float
    corrected: CorrectedScore | None = None

    @property
    def chosen(self) -> LeaderboardEntry:
        """The chosen candidate."""
        return self.candidates[self.chosen_index]

    @property
    def summary(self) -> Scores:
        """The chosen candidate's scores under their names in logs, and what belongs to them."""
        scores = dict(self.chosen.summary)
        if self.corrected:
            scores["cv_macro_f1_corrected"] = self.corrected.macro_f1
        if self.precision and self.precision.comparison:
            scores["int8_macro_f1_difference"] = self.precision.comparison.difference
        return scores

    @property
    def precision(self) -> ChosenPrecision | None:
        """The precision of the chosen candidate's frozen part; None if nothing of it is frozen."""
        chosen = self.chosen
        return None if chosen.candidate.train_from == "pixels" else chosen.backbone.precision

    @property
    def architecture(self) -> str:
        """The architecture of the chosen candidate's backbone."""
        return self.chosen.backbone.architecture

    @property
    def best_of_backbones(self) -> list[LeaderboardEntry]:
        """The first candidate of each backbone, in the order of `ranked`."""
        best: dict[str, LeaderboardEntry] = {}
        for entry in self.ranked:
            best.setdefault(entry.backbone.name, entry)
        return list(best.values())

    @property
    def compares_backbones(self) -> bool:
        """Whether the candidates have several backbones."""
        return len(self.best_of_backbones) > 1

    @property
    def ranked(self) -> list[LeaderboardEntry]:
        """The candidates, the chosen one first, then from the best to the worst."""
        others = [entry for entry in self.candidates if entry is not self.chosen]
        return [self.chosen, *sorted(others, key=lambda entry: entry.rank)]

    @property
    def with_epochs(self) -> list[LeaderboardEntry]:
        """The candidates that are trained in epochs, in the order of `ranked`."""
        return [entry for entry in self.ranked if all(fold.history for fold in entry.folds)]


# The test split


class Curve(Record):
    """One curve of at most `curves.MAX_CURVE_POINTS` points.

    ROC: x is the false positive rate and y the true positive rate, from (0, 0) to (1, 1).
    PR: x is recall and y precision, from recall 1 to the point (0, 1).
    thresholds are finite, one a point. area, taken before thinning, is the area under the ROC
    curve, or the average precision.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    thresholds: tuple[float, ...]
    area: float


class Curves(Record):
    """One-vs-rest curves by class index, their micro average, and why a class has no curve."""

    per_class: dict[int, Curve]
    micro: Curve
    left_out: dict[int, str]


class CurvesByKind(Record):
    """The ROC and the precision-recall curves."""

    roc: Curves
    pr: Curves


class Bin(Record):
    """The images with a probability in (low, high] of the predicted class.

    `confidence` is the mean of those probabilities, and `accuracy` the share of right predictions.
    If the probabilities were true, that share would lie within `chance` in 95 % of draws.
    """

    low: float
    high: float
    num_images: int
    confidence: float
    accuracy: float
    chance: Interval


class Reliability(Record):
    """The reliability curve, its expected calibration error, and the error by chance alone."""

    bins: tuple[Bin, ...]
    error: float
    error_by_chance: float


class Uncalibrated(Reliability):
    """Reliability and loss without the temperature."""

    loss: float


class Calibration(Record):
    """The temperature, and the reliability with and without it."""

    temperature: float
    bins: tuple[Bin, ...]
    error: float
    error_by_chance: float
    without: Uncalibrated


class Latency(Record):
    """Milliseconds per image, one at a time, with the numbers of timed images and of threads."""

    median_ms: float
    p99_ms: float
    num_images: int
    num_threads: int


class Export(Record):
    """The difference between the exported network and torch on a sample of the test split.

    `by` names the exporter, `num_compared` counts the sample's images. `max_difference` is the
    largest difference of a probability. `num_different` counts the images with a different
    predicted class.
    """

    by: str
    num_compared: int
    max_difference: float
    num_different: int


class PredictedImages(Record):
    """The test images, each with its label and the probability of each class."""

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    probabilities: tuple[tuple[float, ...], ...]


class ActivationMap(Record):
    """Where a test image, by its position in the split, has the evidence for its predicted class.

    A row of values for each row of positions, from 0, none, to 1, the strongest in this image. The
    map covers the centre square; `crop` is its share of the image's shorter side.
    """

    position: int
    crop: float
    values: tuple[tuple[float, ...], ...]


class ClassCoverage(Record):
    """A class's test images, and how many of them have a prediction set with the true label."""

    name: str
    num_images: int
    num_covered: int
    interval: Interval


class MeasuredCoverage(Record):
    """The prediction sets for one coverage, on the test split.

    `measured` is the share of sets that hold the true label. `num_single`, `num_several` and
    `num_empty` count sets by their size; `num_single_right` counts those whose only label is true.
    `worst` is the class with the lowest coverage. The classes `always_inside` have too few training
    images to be ruled out, so they are in every set.
    """

    coverage: float
    measured: float
    interval: Interval
    mean_size: float
    num_single: int
    num_single_right: int
    num_several: int
    num_empty: int
    worst: ClassCoverage
    always_inside: tuple[str, ...]


class MeasuredSets(Record):
    """The prediction sets on the test split; `num_novel` is None if novelty can't be told."""

    num_images: int
    num_novel: int | None
    levels: tuple[MeasuredCoverage, ...]


class Evaluation(PredictedImages):
    """The results of the model on the test split.

    The confusion matrix has a row for each true class. The activation maps are those of the report;
    there are none if the network has no feature map. The latency varies from run to run. The
    hashes identify the model's file (SHA-256), the data (DVC's hash) and the test split (SHA-256).
    `prediction_sets` is None in evaluations from before there were any.
    """

    metrics: Scores
    intervals: dict[str, Interval]
    class_f1_intervals: tuple[Interval, ...]
    confusion_matrix: tuple[tuple[int, ...], ...]
    curves: CurvesByKind
    calibration: Calibration
    activation_maps: tuple[ActivationMap, ...]
    latency: Latency
    weights_hash: str
    data_hash: str
    split_hash: str
    export: Export
    prediction_sets: MeasuredSets | None = None

    @property
    def summary(self) -> Scores:
        """The scores under their names in logs: test_macro_f1, …"""
        return {f"test_{name}": value for name, value in self.metrics.items()}


# The registry


class Verdict(StrEnum):
    """The gate's verdict; those in `gate.PASSING` let a version become champion."""

    FIRST = "first"
    SAME = "same"
    BETTER = "better"
    NOT_WORSE = "not worse"
    WORSE = "worse"
    UNDECIDED = "undecided"
    OTHER_CLASSES = "other classes"
    BELOW_FLOOR = "below floor"


class McNemar(Record):
    """Images that only one of two versions has right, and the p-value of McNemar's test."""

    only_challenger_right: int
    only_champion_right: int
    p_value: float


class ChampionComparison(Record):
    """A version compared with the champion on the same test images.

    `num_left_out` counts test images that the champion was trained on. `interval` belongs to the
    difference of macro F1, `mcnemar` to the accuracy. `num_images_enough` estimates how many images
    would settle an undecided comparison, if the two kept differing at the same rate; it is None if
    the comparison is settled, or if no number would settle it.
    """

    champion_version: str
    num_images: int
    num_left_out: int
    macro_f1: float
    champion_macro_f1: float
    difference: float
    interval: Interval
    margin: float
    mcnemar: McNemar
    num_images_enough: int | None = None


class Registration(Record):
    """A registered version and the gate's decision.

    `created` says whether the version is new. `num_judged_before` counts the other registered
    versions that were judged on the same test split.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    gate: Literal["passed", "refused"]
    verdict: Verdict
    reason: str
    created: bool
    comparison: ChampionComparison | None
    num_judged_before: int


class Promotion(Record):
    """A record that a person made a version champion; the tag `promotions` is a list of these."""

    action: Literal["promote", "rollback"]
    by: str
    at: str  # ISO 8601, UTC
    reason: str
    replaced: str | None  # the champion before
    verdict: Verdict
    evidence: str
    forced: bool = False


class TakenBack(Record):
    """A record of a rollback: who took a version back, when and why; its tag `rolled_back`."""

    by: str
    at: str
    reason: str


# The report


class Drawing(Record):
    """A figure on the page; `alternative` is its text alternative."""

    svg: str
    alternative: str
    wide: bool = False


class Drawings(Record):
    """The figures on the page, by name."""

    by_name: dict[str, Drawing]
