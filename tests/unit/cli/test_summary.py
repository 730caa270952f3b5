import io
from pathlib import Path

import pytest
from rich.console import Console

from crossfold.cli import summary
from crossfold.diagnosis.findings import Diagnosis
from crossfold.diagnosis.labels.label_errors import LabelErrors
from crossfold.diagnosis.shortcuts.shortcut_test import FactsScore, Shortcuts
from crossfold.records import (
    CorrectedScore,
    Evaluation,
    Leaderboard,
    LeaderboardEntry,
    Registration,
)
from crossfold.runners.outcome import Outcome

RECORDED = Path(__file__).parents[1] / "recorded"
BOARD = Leaderboard.read(RECORDED / "leaderboard.json")
NO_FINDINGS = Diagnosis(left_out={})
DECAYS = (0.001, 0.0032, 0.01, 0.032, 0.1, 0.32, 1)


def shown(board: Leaderboard, diagnosis: Diagnosis = NO_FINDINGS) -> list[str]:
    """The lines of the summary in a terminal of 80 columns."""
    text = io.StringIO()
    outcome = Outcome(
        board,
        Evaluation.read(RECORDED / "evaluation.json"),
        diagnosis,
        Registration.read(RECORDED / "registration.json"),
        *("", 7, 0, ()),
    )
    summary.show(Console(file=text, width=80), outcome)
    return text.getvalue().splitlines()


@pytest.fixture
def long_board() -> Leaderboard:
    """Twenty-one candidates on three backbones; the best is the last one."""
    entries: list[LeaderboardEntry] = []
    for name in ("lite0", "lite0-160", "random"):
        for decay in DECAYS:
            number = len(entries)
            candidate = BOARD.chosen.candidate.model_copy(
                update={"backbone": name, "name": f"{name} blocks.6 lr=0.00095 wd={decay:g}"}
            )
            update = {
                "candidate": candidate,
                "backbone": BOARD.chosen.backbone.model_copy(update={"name": name}),
                "mean": {**BOARD.chosen.mean, "macro_f1": number / 21},
            }
            entries.append(BOARD.chosen.model_copy(update=update))
    return BOARD.model_copy(update={"candidates": tuple(entries), "chosen_index": 20})


def test_the_best_ten_of_many_candidates_fit_into_80_columns(long_board: Leaderboard) -> None:
    lines = shown(long_board)
    names = [entry.candidate.name for entry in long_board.ranked]
    rows = [next((n for n, line in enumerate(lines) if name in line), None) for name in names]
    first = rows[0]
    assert first is not None and lines[first].startswith("→")
    assert rows[:10] == list(range(first, first + 10)) and rows[10:] == [None] * 11
    assert "11 more" in lines[first + 10]
    assert max(len(line.rstrip()) for line in lines[first - 1 : first + 11]) <= 80
    assert lines[first].split()[-3:] == ["0.0054", "11.18M", "1.5"]


def test_the_corrected_score_is_below_the_table() -> None:
    corrected = CorrectedScore(macro_f1=0.9532, interval=(0.9311, 0.9678), optimism=0.0239)
    (line,) = [
        line
        for line in shown(BOARD.model_copy(update={"corrected": corrected}))
        if "Corrected" in line
    ]
    assert all(number in line for number in ("0.9532", "0.9311", "0.9678", "0.0239"))
    assert len(line) <= 80
    assert not any(
        "Corrected" in line for line in shown(BOARD.model_copy(update={"corrected": None}))
    )


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (0, "Label errors: 0 images to review"),
        (1, "Label errors: 1 image to review (reports/label_issues.csv)"),
        (1200, "Label errors: 1200 images to review (reports/label_issues.csv)"),
    ],
)
def test_label_issues_are_counted(number: int, line: str) -> None:
    found = LabelErrors(
        num_images=2000, num_mistakes=1500, num_issues=number, error_share=0, classes=(), issues=()
    )
    assert line in [
        text.rstrip() for text in shown(BOARD, Diagnosis(left_out={}, label_errors=found))
    ]
    assert not any("Label errors" in text for text in shown(BOARD))


@pytest.mark.parametrize(("share", "warned"), [(0.9, True), (0.1, False)])
def test_a_possible_shortcut_has_a_line(share: float, warned: bool) -> None:
    score = FactsScore(
        facts="camera",
        macro_f1=0.8125,
        interval=(0.75, 1),
        chance=0.5,
        share=share,
        told_classes=(),
    )
    found = Shortcuts(
        num_images=9,
        num_all=9,
        model_macro_f1=1,
        model_interval=(1, 1),
        scores=(score,),
        constant=(),
    )
    lines = shown(BOARD, Diagnosis(left_out={}, shortcuts=found))
    assert any("camera 0.8125" in line for line in lines) == warned
