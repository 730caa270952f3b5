"""The gate: whether a version may become champion, by what evidence, and in which words.

A challenger and the champion are compared on the same test images. The rule, and what else was
thought of, is in docs/decisions/022-gate.md.
"""

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

from . import training_images

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from crossfold.network.classifier import Classifier


_MOST_NAMED = 5  # classes in a reason


PASSING = {Verdict.FIRST, Verdict.SAME, Verdict.BETTER, Verdict.NOT_WORSE}


def verdict_on(interval: Interval, margin: float) -> Verdict:
    """Decide by the interval of a difference of macro F1, the challenger's minus the champion's."""
    low, high = interval
    if low > 0:
        return Verdict.BETTER
    if high < 0:
        return Verdict.WORSE
    return Verdict.NOT_WORSE if low >= -margin else Verdict.UNDECIDED


@dataclass(frozen=True)
class Decision:
    """What the gate says of a version, why, and by which comparison, if there was one."""

    verdict: Verdict
    reason: str
    comparison: ChampionComparison | None = None
    held: bool = False  # a person has taken this version back: only a person may promote it

    @property
    def passed(self) -> bool:
        """Whether the version may become champion."""
        return self.verdict in PASSING and not self.held

    @property
    def word(self) -> Literal["passed", "refused"]:
        """The same in a word."""
        return "passed" if self.passed else "refused"


@dataclass(frozen=True)
class Rule:
    """What params.yaml says of the gate: the floor of macro F1, and what counts as no worse."""

    min_macro_f1: float
    margin: float


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
    """Compare what two versions say of the same images: labels and predictions, int [N] each."""
    macro_f1, theirs = (_macro_f1(labels, said, num_classes) for said in (predictions, champions))
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
    """Judge a version that is the champion already, or for which there is none."""
    if macro_f1 < rule.min_macro_f1:
        remark = "; it stays champion until another takes its place" if is_champion else ""
        return _below_floor(macro_f1, rule, remark)
    above = f"macro F1 {macro_f1:.4f} is at or above the floor of {rule.min_macro_f1:g}"
    if is_champion:
        return Decision(Verdict.SAME, f"{above}, and it is the champion already")
    return Decision(Verdict.FIRST, f"{above}, and there was no champion yet")


def against_champion(
    macro_f1: float, rule: Rule, compared: ChampionComparison, remark: str = ""
) -> Decision:
    """Judge a version by its macro F1 on the whole test split and by a comparison.

    `remark` is said after the reason.
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
    """Judge a version by its evaluation: the champion is run over the same test images.

    Left out are those that the champion was trained on, as the version itself tells.

    Raises:
        UserError: the champion cannot be loaded, or its file of training images.
    """
    macro_f1 = evaluated.metrics["macro_f1"]
    if macro_f1 < rule.min_macro_f1:
        return _below_floor(macro_f1, rule, "")
    network = load_version(champion, num_threads)
    if refused := other_classes(str(champion.version), network.classes, table.classes):
        return refused
    trained = _trained_on(champion)
    kept = np.array([text not in trained for text in table.column("content_hash", TEST)])
    if gone := _classes_gone(table, kept):
        return Decision(
            Verdict.UNDECIDED,
            f"there is no fair comparison with version {champion.version}, the champion: it was "
            f"trained on {(~kept).sum()} of the {len(kept)} test images, and of {gone} no other is "
            "left. Add images that are in the training split of neither",
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
    """Refuse to compare a version with a champion that tells other classes apart.

    The order of the classes is no matter. A class that was renamed is one that is new and one that
    is gone: nothing shows that the two mean the same.
    """
    new, gone = set(classes) - set(champion_classes), set(champion_classes) - set(classes)
    if not (new or gone):
        return None
    differences = [
        f"{len(names)} {title} ({_first(names)})"
        for names, title in ((new, "new"), (gone, "gone"))
        if names
    ]
    return Decision(
        Verdict.OTHER_CLASSES,
        f"version {champion_version}, the champion, knows other classes, so the two are not "
        f"compared: {' and '.join(differences)}. Give the new classes a model name of their own "
        "(tracking.model_name), or replace the champion by hand: `crossfold promote @challenger "
        "--force --reason TEXT`",
    )


def hold(decision: Decision, number: str, taken_back: TakenBack) -> Decision:
    """Refuse a version that a person has taken back, whatever its figures say."""
    if not decision.passed:
        return decision
    return replace(
        decision,
        held=True,
        reason=f"version {number} was taken back by {taken_back.by} on {taken_back.at[:10]} "
        f"({taken_back.reason}), and only `crossfold promote {number}` makes it champion again; "
        f"by its figures: {decision.reason}",
    )


def _below_floor(macro_f1: float, rule: Rule, remark: str) -> Decision:
    return Decision(
        Verdict.BELOW_FLOOR,
        f"macro F1 {macro_f1:.4f} is below the floor of {rule.min_macro_f1:g}{remark}",
    )


def _macro_f1(labels: NDArray[Any], predictions: NDArray[Any], num_classes: int) -> float:
    confusion = metrics.confusion_matrix(labels, predictions, num_classes)
    return float(metrics.class_scores(confusion).f1.mean())


def _trained_on(version: "ModelVersion") -> frozenset[str]:
    """Return the content hashes of a version's training images; none where it does not tell.

    Raises:
        UserError: the file that tells is gone, or has been modified.
    """
    file = version.tags.get("training_images")
    if file is None:
        return frozenset()
    with tempfile.TemporaryDirectory() as folder:
        return training_images.read(download(version, file, folder))


def _classes_gone(table: Examples, kept: NDArray[np.bool_]) -> str:
    """Name the classes of the test split that have no image left, if there are any."""
    labels = table.column("label", TEST)
    return _first({table.classes[i] for i in set(labels) - set(labels[kept])})


def _first(names: set[str]) -> str:
    """Return the first few of some names in words."""
    shown = sorted(names)[:_MOST_NAMED]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "")


def _doubt(champion: "ModelVersion", table: Examples) -> str:
    if "training_images" in champion.tags or champion.tags.get("data_hash") == table.data_hash:
        return ""
    return (
        " (the champion was trained on other data and does not tell on which images, so it may "
        "have seen some of these)"
    )


def _predict(
    network: "Classifier", table: Examples, num_threads: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return labels and another network's predictions of the test split, as the table's classes.

    The network has the same classes, perhaps in another order.
    """
    from crossfold.evaluation.test_split import score

    _, labels, [theirs] = score([network], table, num_threads)
    return labels, in_order(theirs, network.classes, table.classes).argmax(axis=1)


def in_order(
    probabilities: NDArray[Any], classes: Sequence[str], wanted: Sequence[str]
) -> NDArray[Any]:
    """Return probabilities [N, K] with the same classes in another order."""
    return probabilities[:, [classes.index(name) for name in wanted]]


def _reason(compared: ChampionComparison, verdict: Verdict) -> str:
    """Say what a comparison found, and what it rests on."""
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
    """Say what would decide an undecided comparison."""
    margin = "a larger gate.margin would let it pass"
    if compared.num_images_enough is None:
        return f"the difference itself is too near the margin, or beyond it; {margin}"
    return (
        f"about {compared.num_images_enough} test images would be enough for a margin of "
        f"{compared.margin:g}, if the two go on to differ as they do; {margin}"
    )


def evidence(compared: ChampionComparison) -> str:
    """Return the figures of a comparison in words."""
    low, high = compared.interval
    counts = compared.mcnemar
    return (
        f"difference {compared.difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}; right "
        f"alone on {counts.only_challenger_right} images, the champion on "
        f"{counts.only_champion_right} (McNemar's p {counts.p_value:.2g})"
    )
