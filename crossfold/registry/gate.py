"""The gate: decide whether a version may become champion, and explain the evidence.

The challenger and the champion are compared on the same test images. docs/decisions/022-gate.md
explains the rule and its alternatives.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from crossfold.data.examples import TEST, Examples
from crossfold.evaluation import metrics
from crossfold.evaluation.paired_interval import Outcomes, enough_images, macro_f1_interval
from crossfold.predict.model import download, load_version
from crossfold.records import ChampionComparison, Evaluation, Interval, McNemar, TakenBack, Verdict

from . import training_image_hashes
from .training_image_hashes import TrainingImages

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from crossfold.network.openvino_engine import Classifier


_MOST_NAMED = 5  # classes in a reason


PASSING = {Verdict.FIRST, Verdict.SAME, Verdict.BETTER, Verdict.NOT_WORSE}


def verdict_on(interval: Interval, margin: float) -> Verdict:
    """Decide by the interval of the macro F1 difference, challenger minus champion."""
    low, high = interval
    if low > 0:
        return Verdict.BETTER
    if high < 0:
        return Verdict.WORSE
    return Verdict.NOT_WORSE if low >= -margin else Verdict.UNDECIDED


@dataclass(frozen=True)
class Decision:
    """The gate's decision on a version: verdict, reason, and the comparison, if any was made."""

    verdict: Verdict
    reason: str
    comparison: ChampionComparison | None = None
    held: bool = False  # taken back by a rollback, or not signed: only a person may promote it

    @property
    def passed(self) -> bool:
        """Whether the version may become champion."""
        return self.verdict in PASSING and not self.held

    @property
    def word(self) -> Literal["passed", "refused"]:
        """The decision in one word."""
        return "passed" if self.passed else "refused"


@dataclass(frozen=True)
class Rule:
    """The gate's settings in params.yaml: the floor of macro F1, and the "not worse" margin.

    With a `signature_key` (a public key in PEM), only a version with its signature passes.
    """

    min_macro_f1: float
    margin: float
    signature_key: str | None = None


def read_rule(min_macro_f1: float, margin: float, signature_key: str) -> Rule:
    """Read the rule from a step's arguments, where the key is JSON: PEM as text, or null."""
    return Rule(min_macro_f1, margin, json.loads(signature_key))


def compare(
    labels: NDArray[Any],
    predictions: NDArray[Any],
    champions: NDArray[Any],
    num_classes: int,
    *,
    margin: float,
    champion_version: str,
    num_left_out: int = 0,
) -> ChampionComparison:
    """Compare two versions' predictions of the same images: scores, interval and McNemar's test.

    `labels`, `predictions` and `champions` (the champion's predictions) are int [N].
    """
    macro_f1, theirs = (
        metrics.macro_f1(labels, predicted, num_classes) for predicted in (predictions, champions)
    )
    only_mine, only_theirs, p_value = metrics.mcnemar(labels, predictions, champions)
    outcomes = Outcomes.tally(labels, predictions, champions)
    interval = macro_f1_interval(outcomes, num_classes)
    undecided = verdict_on(interval, margin) is Verdict.UNDECIDED
    return ChampionComparison(
        champion_version=champion_version,
        num_images=len(labels),
        num_left_out=num_left_out,
        macro_f1=macro_f1,
        champion_macro_f1=theirs,
        difference=macro_f1 - theirs,
        interval=interval,
        margin=margin,
        mcnemar=McNemar(
            only_challenger_right=only_mine, only_champion_right=only_theirs, p_value=p_value
        ),
        num_images_enough=enough_images(outcomes, num_classes, -margin) if undecided else None,
    )


def without_champion(macro_f1: float, rule: Rule, *, is_champion: bool) -> Decision:
    """Judge a version without a comparison: it is the champion already, or no champion exists."""
    if macro_f1 < rule.min_macro_f1:
        remark = "; it stays champion until another version replaces it" if is_champion else ""
        return _below_floor(macro_f1, rule, remark)
    above = f"macro F1 {macro_f1:.4f} is at or above the floor of {rule.min_macro_f1:g}"
    if is_champion:
        return Decision(Verdict.SAME, f"{above}, and it is already the champion")
    return Decision(Verdict.FIRST, f"{above}, and there was no champion yet")


def against_champion(
    macro_f1: float, rule: Rule, compared: ChampionComparison, remark: str = ""
) -> Decision:
    """Judge a version by its macro F1 on the whole test split and by a comparison.

    `remark` is appended to the reason.
    """
    if macro_f1 < rule.min_macro_f1:
        return Decision(Verdict.BELOW_FLOOR, _below_floor(macro_f1, rule, "").reason, compared)
    verdict = verdict_on(compared.interval, compared.margin)
    return Decision(verdict, f"{_reason(compared, verdict)}{remark}", compared)


def judge(
    champion: "ModelVersion",
    evaluated: Evaluation,
    table: Examples,
    rule: Rule,
    num_threads: int,
) -> Decision:
    """Judge an evaluated version by running the champion over the same test images.

    Leaves out the images that the champion was trained on, according to the champion's own file of
    training images.

    Raises:
        UserError: the champion, or its file of training images, cannot be loaded.
    """
    macro_f1 = evaluated.metrics["macro_f1"]
    if macro_f1 < rule.min_macro_f1:
        return _below_floor(macro_f1, rule, "")
    network = load_version(champion, num_threads)
    if refused := other_classes(str(champion.version), network.classes, table.classes):
        return refused
    kept = ~_training_images(champion).among_test_images(table, num_threads)
    if gone := _classes_gone(table, kept):
        return Decision(
            Verdict.UNDECIDED,
            f"a fair comparison with version {champion.version}, the champion, is impossible: it "
            f"was trained on {(~kept).sum()} of the {len(kept)} test images, and no others are "
            f"left of {gone}. Add images that neither version was trained on",
        )
    labels, champions = _predict(network, table, num_threads)
    predictions = np.array(evaluated.probabilities).argmax(axis=1)
    compared = compare(
        labels[kept],
        predictions[kept],
        champions[kept],
        len(table.classes),
        margin=rule.margin,
        champion_version=str(champion.version),
        num_left_out=int((~kept).sum()),
    )
    return against_champion(macro_f1, rule, compared, _doubt(champion, table))


def other_classes(
    champion_version: str, champion_classes: Sequence[str], classes: Sequence[str]
) -> Decision | None:
    """Refuse to compare a version with a champion that has other classes; None if they match.

    The order of the classes doesn't matter. A renamed class counts as one new and one removed
    class, because nothing shows that the two names mean the same.
    """
    new, missing = set(classes) - set(champion_classes), set(champion_classes) - set(classes)
    if not (new or missing):
        return None
    differences = [
        f"{len(names)} {title} ({_first(names)})"
        for names, title in ((new, "new"), (missing, "missing"))
        if names
    ]
    return Decision(
        Verdict.OTHER_CLASSES,
        f"version {champion_version}, the champion, has other classes, so the two can't be "
        f"compared: {' and '.join(differences)}. Give the new classes their own model name "
        "(tracking.model_name), or replace the champion by hand: `crossfold promote @challenger "
        "--force --reason TEXT`",
    )


def hold(decision: Decision, number: str, taken_back: TakenBack) -> Decision:
    """Refuse a version that a rollback has taken back, however good its scores."""
    if not decision.passed:
        return decision
    return replace(
        decision,
        held=True,
        reason=f"version {number} was taken back by {taken_back.by} on {taken_back.at[:10]} "
        f"({taken_back.reason}), and only `crossfold promote {number}` makes it champion again. "
        f"Its scores: {decision.reason}",
    )


def _below_floor(macro_f1: float, rule: Rule, remark: str) -> Decision:
    return Decision(
        Verdict.BELOW_FLOOR,
        f"macro F1 {macro_f1:.4f} is below the floor of {rule.min_macro_f1:g}{remark}",
    )


def _training_images(version: "ModelVersion") -> TrainingImages:
    """Load the content hashes of a version's training images; empty if it has no such file.

    Raises:
        UserError: the file is missing or has been modified.
    """
    file = version.tags.get("training_images")
    if file is None:
        return TrainingImages()
    with tempfile.TemporaryDirectory() as folder:
        return training_image_hashes.read(download(version, file, folder))


def _classes_gone(table: Examples, kept: NDArray[np.bool_]) -> str:
    """Name the test split's classes that have no image left; "" if all have some."""
    labels = table.column("label", TEST)
    return _first({table.classes[i] for i in set(labels) - set(labels[kept])})


def _first(names: set[str]) -> str:
    """Join the first few names."""
    shown = sorted(names)[:_MOST_NAMED]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "")


def _doubt(champion: "ModelVersion", table: Examples) -> str:
    if "training_images" in champion.tags or champion.tags.get("data_hash") == table.data_hash:
        return ""
    return (
        " (the champion was trained on other data and has no record of its training images, so "
        "it may have seen some of these)"
    )


def _predict(
    network: "Classifier", table: Examples, num_threads: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Predict the test split with a network that has the table's classes, in any order.

    Returns:
        Labels and predictions, int64 [N] each, both as indices of the table's classes.
    """
    from crossfold.evaluation.test_split import score

    _, labels, theirs = score(network, table, num_threads)
    return labels, in_order(theirs, network.classes, table.classes).argmax(axis=1)


def in_order(
    probabilities: NDArray[Any], classes: Sequence[str], wanted: Sequence[str]
) -> NDArray[Any]:
    """Reorder the columns of probabilities [N, K] from the order `classes` to `wanted`."""
    return probabilities[:, [classes.index(name) for name in wanted]]


def _reason(compared: ChampionComparison, verdict: Verdict) -> str:
    """Explain a verdict: both scores, the evidence and, if undecided, advice."""
    margin = f"{compared.margin:g}"
    champion = (
        f"version {compared.champion_version}, the champion, with {compared.champion_macro_f1:.4f} "
        f"on the same {compared.num_images} test images"
    )
    finding = {
        Verdict.BETTER: f"is better than {champion}",
        Verdict.NOT_WORSE: f"is not worse than {champion} (margin {margin})",
        Verdict.WORSE: f"is worse than {champion}",
        Verdict.UNDECIDED: f"is not shown to be at most {margin} worse than {champion}",
    }[verdict]
    left_out = (
        f", without {compared.num_left_out} that the champion was trained on"
        if compared.num_left_out
        else ""
    )
    advice = f"; {_advice(compared)}" if verdict is Verdict.UNDECIDED else ""
    return f"macro F1 {compared.macro_f1:.4f} {finding}{left_out}: {evidence(compared)}{advice}"


def _advice(compared: ChampionComparison) -> str:
    """Advise how to settle an undecided comparison."""
    margin = "a larger gate.margin would let it pass"
    if compared.num_images_enough is None:
        return f"more images won't settle it: the difference is at the margin or beyond; {margin}"
    return (
        f"about {compared.num_images_enough} test images would be enough for a margin of "
        f"{compared.margin:g}, if the two keep differing at the same rate; {margin}"
    )


def evidence(compared: ChampionComparison) -> str:
    """Format a comparison's numbers: difference, interval and McNemar's test."""
    low, high = compared.interval
    counts = compared.mcnemar
    return (
        f"difference {compared.difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}; "
        f"images that only this version has right: {counts.only_challenger_right}, only the "
        f"champion: {counts.only_champion_right} (McNemar's p {counts.p_value:.2g})"
    )
