import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossfold import metrics, report
from crossfold.report import render, write_reports

HOSTILE = "<img src=x onerror=alert(1)>"
LABELS = [0, 0, 0, 1, 1, 1]
PROBABILITIES = [
    [0.75, 0.25, 0.0],
    [0.5, 0.25, 0.25],
    [0.125, 0.625, 0.25],
    [0.25, 0.75, 0.0],
    [0.0, 1.0, 0.0],
    [0.875, 0.125, 0.0],
]


@pytest.fixture
def evaluation() -> dict[str, Any]:
    """Six images of three classes, two of them wrong; the third class has no test image."""
    return {
        "classes": ["cat", HOSTILE, "rare"],
        "paths": [f"data/{i}.png" for i in range(6)],
        "labels": LABELS,
        "probabilities": PROBABILITIES,
        "metrics": {
            "loss": 1 / 3,
            "accuracy": 4 / 6,
            "macro_f1": 0.4,
            "macro_precision": 0.5,
            "macro_recall": 0.6,
        },
        "confusion_matrix": [[2, 1, 0], [1, 2, 0], [0, 0, 0]],
        "curves": metrics.curves(np.array(LABELS), np.array(PROBABILITIES)),
        "weights_hash": "ab" * 32,
        "data_hash": "cd" * 16,
    }


@pytest.fixture
def leaderboard() -> dict[str, Any]:
    return {
        "architecture": "resnet18",
        "classes": ["cat", HOSTILE, "rare"],
        "num_folds": 2,
        "num_epochs": 2,
        "best": 1,
        "candidates": [_candidate("slow", 0.5), _candidate("quick", 0.75)],
    }


DATA = {
    "counts": {"train": {"cat": 30, HOSTILE: 20, "rare": 4}, "test": {"cat": 3, HOSTILE: 3}},
    "data_hash": "cd" * 16,
    "skipped": ["data/cat/<b>broken</b>.png"],
}


def _candidate(name: str, macro_f1: float) -> dict[str, Any]:
    scores = {"macro_f1": macro_f1, "accuracy": macro_f1, "loss": 0.3}
    epoch = {f"{split}_{key}": v for split in ("train", "val") for key, v in scores.items()}
    history = [{"epoch": 1, **epoch}, {"epoch": 2, **epoch}]
    return {
        "candidate": {
            "name": name,
            "freeze_backbone": True,
            "train_from": "head",
            "learning_rate": 0.001,
            "weight_decay": 0.0,
        },
        "mean": scores,
        "std": {"macro_f1": 0.1, "accuracy": 0.1, "loss": 0.1},
        "interval": {"macro_f1": [0.4, 1.2], "accuracy": [0.4, 1.2], "loss": [0.1, 0.5]},
        "folds": [
            {"fold": fold, "best_epoch": 2, "history": history, **scores} for fold in range(2)
        ],
    }


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_page_says_what_was_measured(
    evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    page = render(evaluation, leaderboard, DATA)
    low, high = metrics.wilson_interval(4, 6)
    for expected in (
        "66.67\N{NO-BREAK SPACE}%",
        "4 of 6 test images are right",
        "changes the accuracy by 16.67 points",
        f"{100 * low:.2f}\N{NO-BREAK SPACE}% and {100 * high:.2f}\N{NO-BREAK SPACE}%",
        "quick (chosen)",
        "0.7500 ± 0.1000",
        "0.4000 to 1.0000",
        "rare (no image of this class)",
        "cd" * 16,
        "ab" * 32,
        "<td>54</td><td>6</td>",
    ):
        assert expected in page, expected
    assert page.index("data/5.png") < page.index("data/2.png")
    assert "data/0.png" not in page


def test_names_from_folders_stay_text(
    evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    page = render(evaluation, leaderboard, DATA)
    assert "<img" not in page
    assert "<b>" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_page_is_the_same_every_time(
    evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    assert render(evaluation, leaderboard, DATA) == render(evaluation, leaderboard, DATA)


def test_page_without_mistakes_says_so(
    evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    evaluation["labels"] = [0, 0, 1, 1, 1, 0]
    evaluation["confusion_matrix"] = [[3, 0, 0], [0, 3, 0], [0, 0, 0]]
    assert "None: every test image is right." in render(evaluation, leaderboard, DATA)


def test_metrics_file_is_for_dvc(
    tmp_path: Path, evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    folder = tmp_path / "reports"
    write_reports(folder, evaluation=evaluation, leaderboard=leaderboard, report_html="<p>")
    text = (folder / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text) == {
        "candidate": "quick",
        "cv": {
            "accuracy": 0.75,
            "accuracy_std": 0.1,
            "loss": 0.3,
            "loss_std": 0.1,
            "macro_f1": 0.75,
            "macro_f1_std": 0.1,
        },
        "test": evaluation["metrics"],
    }
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


def test_plot_files_hold_the_predictions_curves_and_histories(
    tmp_path: Path, evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    folder = tmp_path / "reports"
    write_reports(folder, evaluation=evaluation, leaderboard=leaderboard, report_html="<p>")
    plots = folder / "plots"
    confusion = [tuple(row.values()) for row in _rows(plots / "confusion.csv")]
    assert confusion == [
        *[("cat", "cat")] * 2,
        ("cat", HOSTILE),
        *[(HOSTILE, HOSTILE)] * 2,
        (HOSTILE, "cat"),
    ]
    for name, columns in (
        ("roc.csv", ["class", "fpr", "tpr"]),
        ("pr.csv", ["class", "recall", "precision"]),
    ):
        rows = _rows(plots / name)
        assert list(rows[0]) == columns
        assert {row["class"] for row in rows} == {"cat", HOSTILE, report.MICRO_AVERAGE}
    history = _rows(plots / "learning_curves.csv")
    assert list(history[0]) == list(report.HISTORY_COLUMNS)
    assert [(row["candidate"], row["fold"], row["epoch"]) for row in history] == [
        (name, str(fold), str(epoch))
        for name in ("slow", "quick")
        for fold in (0, 1)
        for epoch in (1, 2)
    ]


def test_writing_again_replaces_its_files_and_no_others(
    tmp_path: Path, evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    folder = tmp_path / "reports"
    write_reports(folder, evaluation=evaluation, leaderboard=leaderboard, report_html="old")
    (folder / "plots" / "mine.csv").write_text("kept")
    write_reports(folder, evaluation=evaluation, leaderboard=leaderboard, report_html="new")
    assert (folder / "report.html").read_text() == "new"
    assert (folder / "plots" / "mine.csv").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["reports"]


def test_a_failure_changes_nothing(
    tmp_path: Path, evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    folder = tmp_path / "reports"
    write_reports(folder, evaluation=evaluation, leaderboard=leaderboard, report_html="old")
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    evaluation["metrics"]["accuracy"] = 0.0
    del leaderboard["candidates"][1]["folds"][1]["history"][1]["val_loss"]
    with pytest.raises(KeyError):
        write_reports(folder, evaluation=evaluation, leaderboard=leaderboard, report_html="new")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
