import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from crossfold import gate, metrics
from crossfold.gate import Comparison, Decision, Rule, Verdict

RULE = Rule(min_macro_f1=0.5, margin=0.02)


def compared(low: float, high: float, margin: float = 0.02) -> Comparison:
    return Comparison(
        champion_version="2",
        num_images=359,
        num_left_out=0,
        macro_f1=0.93,
        champion_macro_f1=0.93,
        difference=(low + high) / 2,
        interval=(low, high),
        margin=margin,
        mcnemar={"only_challenger_right": 4, "only_champion_right": 3, "p_value": 1.0},
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


def test_without_a_margin_only_a_better_or_an_equal_version_passes() -> None:
    assert compared(-0.0001, 0.2, margin=0).verdict == Verdict.UNDECIDED
    assert compared(0.0, 0.0, margin=0).verdict == Verdict.NOT_WORSE


def test_what_is_undecided_says_what_would_decide_it() -> None:
    decision = gate.against_champion(0.93, RULE, compared(-0.04, 0.05))
    assert "is not shown to be at most 0.02 worse" in decision.reason
    assert "more test images" in decision.reason
    assert "gate.margin" in decision.reason


def test_below_the_floor_no_comparison_helps() -> None:
    decision = gate.against_champion(0.93, Rule(0.95, 0.02), compared(0.1, 0.2))
    assert (decision.verdict, decision.word) == (Verdict.BELOW_FLOOR, "refused")
    assert "0.9300 is below the floor of 0.95" in decision.reason


def predictions(of: NDArray[np.int64], wrong: Sequence[int]) -> NDArray[np.int64]:
    """Return the labels, but for some that are wrong."""
    found = of.copy()
    found[list(wrong)] = 1 - found[list(wrong)]
    return found


def test_two_versions_are_compared_image_by_image() -> None:
    labels = np.array([0, 1] * 50)
    mine, champions = predictions(labels, range(2)), predictions(labels, range(1, 21))
    found = gate.compare(labels, mine, champions, 2, margin=0.02, champion_version="7")
    assert found.num_images == 100
    assert found.difference == pytest.approx(found.macro_f1 - found.champion_macro_f1)
    assert found.interval == metrics.paired_bootstrap(labels, mine, champions, 2)
    assert found.mcnemar["only_challenger_right"] == 19
    assert found.mcnemar["only_champion_right"] == 1
    assert found.mcnemar["p_value"] == pytest.approx(4.0054e-05, rel=1e-3)  # 2 * 21 / 2**20
    assert found.verdict == Verdict.BETTER
    assert Comparison.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_equal_predictions_are_not_worse() -> None:
    labels = np.array([0, 1] * 20)
    said = predictions(labels, [3])
    found = gate.compare(labels, said, said, 2, margin=0.02, champion_version="1")
    assert (found.difference, found.interval) == (0, (0, 0))
    assert found.verdict == Verdict.NOT_WORSE


def test_few_images_leave_a_small_difference_undecided() -> None:
    labels = np.array([0, 1] * 10)
    mine, champions = predictions(labels, [0, 1]), predictions(labels, [2])
    found = gate.compare(labels, mine, champions, 2, margin=0.02, champion_version="1")
    assert found.verdict == Verdict.UNDECIDED


def test_what_a_person_took_back_is_held_whatever_its_figures_say() -> None:
    better = gate.against_champion(0.93, RULE, compared(0.01, 0.02))
    taken_back = {"by": "ada", "at": "2026-05-01T10:00:00+00:00", "reason": "odd on Mondays"}
    held = gate.hold(better, "3", taken_back)
    assert (held.verdict, held.word) == (Verdict.BETTER, "refused")
    assert "taken back by ada on 2026-05-01 (odd on Mondays)" in held.reason
    assert "`crossfold promote 3`" in held.reason
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
    ]
