from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from crossfold.evaluation.paired_interval import Outcomes, macro_f1_interval
from crossfold.records import ChampionComparison, McNemar, TakenBack, Verdict
from crossfold.registry import gate
from crossfold.registry.gate import Decision, Rule

RULE = Rule(min_macro_f1=0.5, margin=0.02)


def compared(low: float, high: float) -> ChampionComparison:
    return ChampionComparison(
        champion_version="2",
        num_images=359,
        num_left_out=0,
        macro_f1=0.93,
        champion_macro_f1=0.93,
        difference=(low + high) / 2,
        interval=(low, high),
        margin=0.02,
        mcnemar=McNemar(only_challenger_right=4, only_champion_right=3, p_value=1.0),
    )


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.001, 0.05, Verdict.BETTER),
        (0.0, 0.05, Verdict.NOT_WORSE),
        (0.0, 0.0, Verdict.NOT_WORSE),
        (-0.02, 0.01, Verdict.NOT_WORSE),
        (-0.021, 0.01, Verdict.UNDECIDED),
        (-0.3, 0.3, Verdict.UNDECIDED),
        (-0.021, 0.0, Verdict.UNDECIDED),
        (-0.01, -0.001, Verdict.WORSE),  # surely worse, if by little
        (-0.3, -0.001, Verdict.WORSE),
        (-0.3, -0.1, Verdict.WORSE),
    ],
)
def test_the_interval_of_the_difference_decides(low: float, high: float, verdict: Verdict) -> None:
    decision = gate.against_champion(0.93, RULE, compared(low, high))
    assert decision.verdict == verdict
    assert decision.passed == (verdict in {Verdict.BETTER, Verdict.NOT_WORSE})
    assert f"95 % interval {low:+.4f} to {high:+.4f}" in decision.reason
    assert "version 2, the champion" in decision.reason
    assert "359 test images" in decision.reason


def test_without_a_margin_only_a_better_version_passes() -> None:
    assert gate.verdict_on((-0.0001, 0.2), margin=0) == Verdict.UNDECIDED
    assert gate.verdict_on((0.0001, 0.2), margin=0) == Verdict.BETTER


def test_an_undecided_verdict_advises_how_to_settle_it() -> None:
    decision = gate.against_champion(0.93, RULE, compared(-0.04, 0.05))
    assert "0.02" in decision.reason and "gate.margin" in decision.reason
    enough = compared(-0.04, 0.05).model_copy(update={"num_images_enough": 520})
    decision = gate.against_champion(0.93, RULE, enough)
    assert "520 test images" in decision.reason
    assert "gate.margin" in decision.reason


def test_below_the_floor_no_comparison_helps() -> None:
    decision = gate.against_champion(0.93, Rule(0.95, 0.02), compared(0.1, 0.2))
    assert (decision.verdict, decision.word) == (Verdict.BELOW_FLOOR, "refused")
    assert "0.9300" in decision.reason and "0.95" in decision.reason


def verdict_of(compared: ChampionComparison) -> Verdict:
    return gate.verdict_on(compared.interval, compared.margin)


def predictions(of: NDArray[np.int64], wrong: Sequence[int]) -> NDArray[np.int64]:
    """Copy the labels of two classes, and swap those at the positions `wrong`."""
    swapped = of.copy()
    swapped[list(wrong)] = 1 - swapped[list(wrong)]
    return swapped


def test_two_versions_are_compared_image_by_image() -> None:
    labels = np.array([0, 1] * 50)
    mine, champions = predictions(labels, range(2)), predictions(labels, range(1, 21))
    found = gate.compare(labels, mine, champions, 2, margin=0.02, champion_version="7")
    assert found.num_images == 100
    assert found.difference == pytest.approx(found.macro_f1 - found.champion_macro_f1)
    outcomes = Outcomes.tally(labels, mine, champions)
    assert found.interval == macro_f1_interval(outcomes, 2)
    assert found.num_images_enough is None
    assert found.mcnemar.only_challenger_right == 19
    assert found.mcnemar.only_champion_right == 1
    assert found.mcnemar.p_value == pytest.approx(4.0054e-05, rel=1e-3)  # 2 * 21 / 2**20
    assert verdict_of(found) == Verdict.BETTER


@pytest.mark.parametrize(("num_images", "verdict"), [(100, "undecided"), (200, "not worse")])
def test_equal_predictions_are_not_worse_on_enough_images(num_images: int, verdict: str) -> None:
    labels = np.arange(num_images) % 2
    said = predictions(labels, [3])
    found = gate.compare(labels, said, said, 2, margin=0.02, champion_version="1")
    assert (found.difference, verdict_of(found)) == (0, verdict)


def test_few_images_leave_a_small_difference_undecided_and_say_how_many_would_do() -> None:
    labels = np.arange(40) % 2
    mine, champions = predictions(labels, [0, 1]), predictions(labels, [2, 3])
    found = gate.compare(labels, mine, champions, 2, margin=0.02, champion_version="1")
    assert verdict_of(found) == Verdict.UNDECIDED
    assert found.num_images_enough is not None
    times = -(-found.num_images_enough // 40)
    labels, mine, champions = (np.tile(values, times) for values in (labels, mine, champions))
    found = gate.compare(labels, mine, champions, 2, margin=0.02, champion_version="1")
    assert verdict_of(found) == Verdict.NOT_WORSE


def test_a_version_worse_by_the_margin_is_not_helped_by_more_images() -> None:
    labels = np.arange(40) % 2
    mine, champions = predictions(labels, [0, 1]), predictions(labels, [2])
    found = gate.compare(labels, mine, champions, 2, margin=0.02, champion_version="1")
    assert (verdict_of(found), found.num_images_enough) == (Verdict.UNDECIDED, None)


@pytest.mark.parametrize(
    ("champions", "differences"),
    [
        (("cat", "dog"), None),
        (("dog", "cat"), None),  # in another order
        (("cat",), "1 new (dog)"),
        (("cat", "dog", "owl"), "1 missing (owl)"),
        (("cat", "hound"), "1 new (dog) and 1 missing (hound)"),  # renamed
        (tuple("0123456"), "2 new (cat, dog) and 7 missing (0, 1, 2, 3, 4, …)"),
    ],
)
def test_a_champion_with_other_classes_is_not_compared(
    champions: tuple[str, ...], differences: str | None
) -> None:
    decision = gate.other_classes("3", champions, ("cat", "dog"))
    if differences is None:
        assert decision is None
        return
    assert decision is not None
    assert (decision.verdict, decision.passed) == (Verdict.OTHER_CLASSES, False)
    assert differences in decision.reason
    assert "version 3, the champion" in decision.reason
    assert "tracking.model_name" in decision.reason
    assert "crossfold promote @challenger --force --reason" in decision.reason


def test_what_a_person_took_back_is_held_whatever_its_figures_say() -> None:
    better = gate.against_champion(0.93, RULE, compared(0.01, 0.02))
    taken_back = TakenBack(by="ada", at="2026-05-01T10:00:00+00:00", reason="odd on Mondays")
    held = gate.hold(better, "3", taken_back)
    assert (held.verdict, held.word) == (Verdict.BETTER, "refused")
    for fact in ("ada", "2026-05-01", "odd on Mondays", "`crossfold promote 3`"):
        assert fact in held.reason
    worse = replace(better, verdict=Verdict.WORSE)
    assert gate.hold(worse, "3", taken_back) == worse


def test_a_decision_says_itself_in_a_word() -> None:
    assert [Decision(verdict, "").word for verdict in Verdict] == [
        "passed",
        "passed",
        "passed",
        "passed",
        "refused",
        "refused",
        "refused",
        "refused",
    ]
