import csv
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from crossfold.data.examination.findings import DataFacts, Pair, PairCounts
from crossfold.diagnosis.findings import Diagnosis
from crossfold.diagnosis.labels.confused_classes import ConfusedClasses
from crossfold.diagnosis.labels.label_errors import ClassLabels, LabelErrors, LabelIssue
from crossfold.diagnosis.shortcuts.shortcut_test import FactsScore, Shortcuts
from crossfold.evaluation import calibration, metrics
from crossfold.evaluation.curves import compute_curves
from crossfold.records import (
    ChosenPrecision,
    Evaluation,
    Leaderboard,
    PrecisionComparison,
    Registration,
)
from crossfold.report import content, dvc_files, test_split_reuse
from crossfold.report import page as report_page
from crossfold.report.drawings import draw
from crossfold.report.pictures import DataSummary
from crossfold.report.predictions import predictions
from tests.unit.networks import FACTS

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
            "mcc": 1 / 3,
        },
        "intervals": {
            "loss": [0.1, 0.9],
            "accuracy": [0.5, 0.875],
            "macro_f1": [0.25, 0.5],
            "macro_precision": [0.3, 0.7],
            "macro_recall": [0.35, 0.85],
            "mcc": [-0.25, 0.75],
        },
        "class_f1_intervals": [[0.55, 0.95], [0.45, 1.0], [0.0, 0.0]],
        "confusion_matrix": [[2, 1, 0], [1, 2, 0], [0, 0, 0]],
        "calibration": calibration.assess(
            np.array(LABELS), np.array(PROBABILITIES, np.float32), temperature=1.25
        ),
        "activation_maps": [
            {"position": n, "crop": 1.0, "values": [[0.0, 1.0], [0.5, 0.25]]} for n in (5, 2, 1)
        ],
        "latency": {"median_ms": 12.34, "p99_ms": 56.78, "num_images": 40, "num_threads": 2},
        "split_hash": "ef" * 32,
        "curves": compute_curves(np.array(LABELS), np.array(PROBABILITIES)),
        "weights_hash": "ab" * 32,
        "data_hash": "cd" * 16,
        "export": {
            "by": "openvino 1",
            "num_compared": 12,
            "max_difference": 0.0,
            "num_different": 0,
        },
    }


@pytest.fixture
def leaderboard() -> dict[str, Any]:
    return {
        "choice": "best",
        "classes": ["cat", HOSTILE, "rare"],
        "num_folds": 2,
        "num_epochs": 2,
        "temperature": 1.25,
        "chosen_index": 1,
        "candidates": [_candidate("slow", 0.5), _candidate("quick", 0.75)],
        "diverged": [],
    }


DATA = DataSummary(
    counts={"train": {"cat": 30, HOSTILE: 20, "rare": 4}, "test": {"cat": 3, HOSTILE: 3}},
    data_hash="cd" * 16,
    skipped=("data/cat/<b>broken</b>.png",),
    facts=DataFacts(),
    samples={"cat": {"data/'\"><i>.png": "data:image/png;base64,c2FtcGxl"}},
    tested={f"data/{i}.png": f"data:image/png;base64,bWlzdGFrZ{i}==" for i in (1, 2, 3, 5)},
    overlays={f"data/{i}.png": f"data:image/png;base64,b3ZlcmxheT{i}==" for i in (1, 2, 3, 5)},
    leaks={},
)
# The first test image, which the model has right, looks like one that it was trained on.
LEAK = Pair(
    paths=("cat/<b>.png", "data/0.png"),
    correlation=0.995,
    other_class=False,
    places=("fold 1", "test"),
)
LEAKING = replace(
    DATA,
    facts=DataFacts(
        num_images=60,
        num_test=6,
        remarks={"grey": 12},
        pair_counts=PairCounts(pairs=2, images=4, leaks=1, leaked=1),
        leaked=("data/0.png",),
        leaks=(LEAK,),
    ),
    leaks={"cat/<b>.png": "data:image/png;base64,dHJhaW4=", "data/0.png": "data:,test"},
)

REGISTRATION: dict[str, Any] = {
    "name": "crossfold",
    "version": "3",
    "aliases": ["challenger"],
    "gate": "refused",
    "verdict": "undecided",
    "reason": "macro F1 0.4000 is not shown to be at most 0.01 worse than version 1",
    "created": True,
    "comparison": {
        "champion_version": "1",
        "num_images": 5,
        "num_left_out": 1,
        "macro_f1": 0.42,
        "champion_macro_f1": 0.41,
        "difference": 0.01,
        "interval": [-0.125, 0.15],
        "margin": 0.01,
        "mcnemar": {"only_challenger_right": 7, "only_champion_right": 4, "p_value": 0.5488},
    },
    "num_judged_before": 2,
}
NO_FINDINGS = Diagnosis(left_out={})
ISSUE = LabelIssue(
    path="cat/ä, b.png",
    label="cat",
    suggested=HOSTILE,
    label_probability=0.01,
    suggested_probability=0.98,
)
FINDINGS = Diagnosis(
    left_out={"outliers": "no features"},
    label_errors=LabelErrors(
        num_images=9,
        num_mistakes=2,
        num_issues=1,
        error_share=0.125,
        classes=(ClassLabels(name="cat", num_images=9, num_issues=1, num_errors=1.25),),
        issues=(ISSUE,),
    ),
    confused_classes=ConfusedClasses(num_pairs=0, pairs=()),
)
FIRST = {
    **REGISTRATION,
    "gate": "passed",
    "verdict": "first",
    "comparison": None,
    "num_judged_before": 0,
}


def render(
    evaluation: dict[str, Any],
    leaderboard: dict[str, Any],
    *,
    data: DataSummary = DATA,
    diagnosis: Diagnosis = NO_FINDINGS,
    registration: dict[str, Any] = FIRST,
    lineage: Mapping[str, str] = MappingProxyType({}),
) -> str:
    evaluated = Evaluation.model_validate(evaluation)
    board = Leaderboard.model_validate(leaderboard)
    return report_page.render(
        evaluated,
        board,
        diagnosis,
        data,
        draw(evaluated, board, diagnosis),
        registration=Registration.model_validate(registration),
        lineage=lineage,
    )


def test_int8_is_compared_with_float32_backbone_by_backbone(
    evaluation: dict[str, Any], leaderboard: dict[str, Any], undrawn: None
) -> None:
    assert 'id="precision"' not in render(evaluation, leaderboard)
    compared = PrecisionComparison(
        num_images=256,
        float32_macro_f1=0.975,
        int8_macro_f1=0.9625,
        difference=-0.0125,
        interval=(-0.03125, 0.0078125),
        num_different=7,
        p_value=0.375,
    )
    taken = ChosenPrecision(precision="float32", reason="too <much>", comparison=compared)
    facts = FACTS.model_copy(update={"precision": taken})
    for candidate in leaderboard["candidates"]:
        candidate["backbone"] = facts
    page = render(evaluation, leaderboard)
    table = page[page.index('id="precision"') :].split("</table>")[0]
    for text in ("resnet18: float32", "too &lt;much&gt;", "0.9625", "-0.0312 to +0.0078", ">7<"):
        assert text in table
    taken = ChosenPrecision(precision="float32", reason="no instructions")
    leaderboard["candidates"][1]["backbone"] = FACTS.model_copy(update={"precision": taken})
    assert "not compared" in render(evaluation, leaderboard)


def _candidate(name: str, macro_f1: float) -> dict[str, Any]:
    scores = {"macro_f1": macro_f1, "accuracy": macro_f1, "loss": 0.3, "mcc": 0.5}
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
        "backbone": FACTS,
        "mean": scores,
        "std": dict.fromkeys(scores, 0.1),
        "against_chosen": None
        if name == "quick"
        else {
            "difference": 0.25,
            "interval": [0.125, 0.375],
            "only_chosen_right": 17,
            "only_this_right": 2,
            "p_value": 0.00073,
        },
        "interval": {key: [0.4, 1.2] for key in scores} | {"loss": [0.1, 0.5]},
        "folds": [
            {"fold": fold, "num_epochs": 2, "history": history, **scores} for fold in range(2)
        ],
    }


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("undrawn")
def test_page_says_what_was_measured(
    evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    page = render(evaluation, leaderboard)
    low, high = metrics.wilson_interval(4, 6)
    for expected in (
        "66.67\N{NO-BREAK SPACE}%",
        "4 of 6 test images",
        "16.67 points",
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


@pytest.mark.usefixtures("undrawn")
def test_page_warns_of_facts_that_tell_the_classes_apart(
    evaluation: dict[str, Any], leaderboard: dict[str, Any], undrawn: None
) -> None:
    scores = [
        FactsScore(
            facts=facts,
            macro_f1=score,
            interval=(score, 1),
            chance=0.25,
            share=share,
            told_classes=told,
        )
        for facts, score, share, told in [
            ("file", 0.875, 0.9, ()),
            ("camera", 0.5, 0.3, ("c<at>",)),
            ("border", 0.4375, 0.2, ()),
            ("colour", 0.96875, 1.0, ("c<at>",)),
        ]
    ]
    found = Shortcuts(
        num_images=2000,
        num_all=4000,
        model_macro_f1=0.9375,
        model_interval=(0.875, 1),
        scores=tuple(scores),
        constant=("dimensions",),
    )
    diagnosis = Diagnosis(left_out={}, shortcuts=found)
    page = render(evaluation, leaderboard, diagnosis=diagnosis)
    section = page[page.index('id="shortcuts"') :].split("</section>")[0]
    first, second = re.findall(r'class="warning">(.*?)</p>', section)
    assert first.startswith("File size and format") and "0.8750" in first
    assert second.startswith("Camera") and "c&lt;at&gt;" in second
    assert section.count("possible shortcut") == 2
    assert all(text in section for text in ("2000 of 4000", "width and height", "0.9375", "30"))
    left_out = Diagnosis(left_out={"shortcuts": "no <reason>"})
    assert "no &lt;reason&gt;" in render(evaluation, leaderboard, diagnosis=left_out)


def test_page_names_model_version_data_and_date(
    evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    page = render(evaluation, leaderboard, lineage={"started": "2026-11-28T20:30:37+00:00"})
    title = page[page.index("<title>") : page.index("</title>")]
    for expected in ("crossfold version 3", "66.67", "data cdcdcdcd", "2026-11-28"):
        assert expected in title, expected


@pytest.mark.usefixtures("undrawn")
def test_page_compares_candidates_and_a_majority_class(
    evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    page = render(evaluation, leaderboard)
    for expected in ("-0.2500", "-0.3750 to -0.1250", ": 17<", ">0.0007<"):
        assert expected in page, expected
    test = predictions(Evaluation.model_validate(evaluation))
    baseline = content.majority_baseline(test, DATA.counts["train"])
    assert (baseline.name, baseline.accuracy) == ("cat", 0.5)
    assert baseline.macro_f1 == pytest.approx(2 / 9)
    assert "50.00\N{NO-BREAK SPACE}%" in page and "0.2222" in page


@pytest.mark.usefixtures("undrawn")
def test_page_has_the_scores_without_near_duplicates_beside_the_scores(
    evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    page = render(evaluation, leaderboard, data=LEAKING)
    others = metrics.scores(np.array(LABELS[1:]), np.array(PROBABILITIES[1:]))
    for expected in (
        f"<strong>{others['macro_f1']:.4f}</strong>",
        "<strong>60.00\N{NO-BREAK SPACE}%</strong>",
        "1 of 6 test images",
        'href="#near-duplicates"',
        "other 5 test images",
        'src="data:image/png;base64,dHJhaW4="',
        "cat/&lt;b&gt;.png",
        *[line[1:] for line in LEAKING.facts.lines()],
    ):
        assert expected in page, expected
    assert "#near-duplicates" not in render(evaluation, leaderboard)


@pytest.mark.usefixtures("undrawn")
def test_page_has_intervals_calibration_latency_and_pictures(
    evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    page = render(evaluation, leaderboard)
    calibrated = evaluation["calibration"]
    for expected in (
        "0.2500 to 0.5000",
        "50.00\N{NO-BREAK SPACE}% to 87.50\N{NO-BREAK SPACE}%",
        "0.5500 to 0.9500",
        "1.250",
        "overconfident",
        f"<strong>{calibrated.error:.4f}</strong>",
        f"{calibrated.without.error:.4f}",
        "<strong>12.3&nbsp;ms</strong>",
        "<strong>56.8&nbsp;ms</strong>",
        "40 single predictions",
        'src="data:image/png;base64,c2FtcGxl"',
        "ef" * 32,
    ):
        assert expected in page, expected
    assert page.index("bWlzdGFrZ5==") < page.index("bWlzdGFrZ2==")  # the surest mistake is first
    assert 'alt="data/2.png: of class cat, taken for &lt;img' in page


@pytest.mark.usefixtures("undrawn")
def test_page_shows_activation_maps_of_mistakes_and_of_right_images(
    evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    page = render(evaluation, leaderboard)
    mistakes, right = page[page.index('id="mistakes"') :].split('id="activation-maps"')
    right = right[: right.index("</section>")]
    shown = {n: f"data:image/png;base64,b3ZlcmxheT{n}==" for n in (1, 2, 3, 5)}
    assert all(shown[n] in mistakes for n in (2, 5)) and shown[1] in right
    assert "2 × 2 positions" in right
    assert 'alt="data/1.png: class activation map for cat"' in right


@pytest.mark.usefixtures("undrawn")
def test_page_says_that_a_network_gives_no_activation_maps(
    evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    page = render(
        {**evaluation, "activation_maps": []}, leaderboard, data=replace(DATA, overlays={})
    )
    assert "b3ZlcmxheT" not in page
    assert "No class activation maps" in page and "last layers of resnet18" in page
    assert page.count('class="tested') == 1  # the mistakes


@pytest.mark.usefixtures("undrawn")
def test_a_page_has_the_gate_with_its_evidence(
    evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    page = render(evaluation, leaderboard, registration=REGISTRATION)
    for expected in (
        '<strong class="verdict refused">Refused</strong> crossfold version 3',
        "Macro F1 0.4000 is not shown to be at most 0.01 worse than version 1.",
        "<td>5 test images</td>",
        "<td>+0.0100</td>",
        "<td>-0.1250 to +0.1500</td>",
        "<td>7 images</td>",
        "<td>4 images</td>",
        "<td>0.5488</td>",
        "2 other registered versions",
    ):
        assert expected in page, expected
    # Of three equally good versions, by the interval from 0.25 to 0.5 around 0.4.
    chosen = test_split_reuse.best_of(3, 0.4, (0.25, 0.5))
    assert f"{chosen.optimism:.4f}" in page
    assert f"{chosen.interval[0]:.4f} to {chosen.interval[1]:.4f} (Bonferroni)" in page


@pytest.mark.usefixtures("undrawn")
def test_a_first_version_has_nothing_to_be_compared_with(
    evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    page = render(evaluation, leaderboard)
    assert '<strong class="verdict passed">Passed</strong>' in page
    assert "Comparison with the champion" not in page and "Bonferroni" not in page


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "verdict",
    ["first", "same", "better", "not worse", "worse", "undecided", "other classes", "below floor"],
)
def test_every_verdict_has_its_words(
    evaluation: dict[str, Any], leaderboard: dict[str, Any], verdict: str
) -> None:
    registration = {**FIRST, "verdict": verdict, "reason": HOSTILE}
    page = render(evaluation, leaderboard, registration=registration)
    assert "crossfold version 3, " in page
    assert HOSTILE not in page


@pytest.mark.usefixtures("undrawn")
def test_a_page_has_the_lineage(evaluation: dict[str, Any], leaderboard: dict[str, Any]) -> None:
    lineage = {
        "git_commit": "c0ffee",
        "git_dirty": "true",
        "data_hash": "cd" * 16,
        "num_threads": "2",
        "processor_kernels": HOSTILE,
        "settings": '{"training": {"seed": 7}}',
        "libraries": '{"numpy": "2.3.4"}',
        "test_macro_f1": "0.4",
    }
    page = render(evaluation, leaderboard, lineage=lineage)
    for expected in (
        "<code>c0ffee</code>",
        "<code>yes",
        "&#34;seed&#34;: 7",
        "&#34;numpy&#34;: &#34;2.3.4&#34;",
        "&lt;img src=x",
    ):
        assert expected in page, expected
    assert HOSTILE not in page and "test_macro_f1" not in page
    clean = render(evaluation, leaderboard, lineage={"git_dirty": "false"})
    assert "<code>none" in clean and "<code>yes" not in clean


def test_the_best_of_several_is_too_good_by_what_simulation_finds() -> None:
    rng = np.random.default_rng(0)
    for num_judged in (2, 5, 20):
        error = 0.01
        best = (0.9 + error * rng.standard_normal((20000, num_judged))).max(axis=1)
        found = test_split_reuse.best_of(num_judged, 0.9, [0.9 - 1.96 * error, 0.9 + 1.96 * error])
        assert found.optimism == pytest.approx(best.mean() - 0.9, rel=0.06)
        low, high = found.interval
        worst = np.abs(error * rng.standard_normal((20000, num_judged))).max(axis=1)
        assert np.mean(worst <= high - 0.9) == pytest.approx(0.95, abs=0.006)
        assert high - 0.9 == pytest.approx(0.9 - low)
    alone = test_split_reuse.best_of(1, 0.9, [0.85, 0.93])
    assert alone.optimism == 0
    assert alone.interval == pytest.approx((0.85, 0.93))
    assert test_split_reuse.best_of(9, 0.99, [0.9, 1.0]).interval[1] == 1.0


def test_names_from_folders_stay_text(
    evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    page = render(evaluation, leaderboard)
    pictures = [page[at : at + 10] for at in range(len(page)) if page.startswith("<img", at)]
    assert pictures == ['<img src="'] * 7
    assert "<b>" not in page and "<i>" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_page_is_the_same_every_time(
    evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    assert render(evaluation, leaderboard) == render(evaluation, leaderboard)


@pytest.mark.usefixtures("undrawn")
def test_page_without_mistakes_lists_none(
    evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    assert '<ol class="tested mistakes">' in render(evaluation, leaderboard)
    evaluation["labels"] = [0, 0, 1, 1, 1, 0]
    evaluation["confusion_matrix"] = [[3, 0, 0], [0, 3, 0], [0, 0, 0]]
    assert '<ol class="tested mistakes">' not in render(evaluation, leaderboard)


def write(
    folder: Path,
    evaluation: dict[str, Any],
    leaderboard: dict[str, Any],
    page: str = "<p>",
    *,
    record: bool = True,
) -> None:
    dvc_files.write_reports(
        folder,
        evaluation=Evaluation.model_validate(evaluation),
        leaderboard=Leaderboard.model_validate(leaderboard),
        diagnosis=FINDINGS,
        report_html=page,
        record=record,
    )


def test_metrics_file_is_for_dvc(
    tmp_path: Path, evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    folder = tmp_path / "reports"
    write(folder, evaluation, leaderboard)
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
            "mcc": 0.5,
            "mcc_std": 0.1,
        },
        "test": evaluation["metrics"],
    }
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


def test_label_issues_are_a_csv_file(
    tmp_path: Path, evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    write(tmp_path / "reports", evaluation, leaderboard, record=False)
    text = (tmp_path / "reports" / dvc_files.LABEL_ISSUES).read_text(encoding="utf-8")
    header, row = text.splitlines()
    assert header == "path,label,suggested,label_probability,suggested_probability"
    assert row == f'"cat/ä, b.png",cat,{HOSTILE},0.01,0.98'


def test_plot_files_hold_the_predictions_curves_and_histories(
    tmp_path: Path, evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    folder = tmp_path / "reports"
    write(folder, evaluation, leaderboard)
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
        assert {row["class"] for row in rows} == {"cat", HOSTILE, dvc_files.MICRO_AVERAGE}
    history = _rows(plots / "learning_curves.csv")
    assert list(history[0]) == dvc_files.history_columns()
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
    write(folder, evaluation, leaderboard, "old")
    (folder / "plots" / "mine.csv").write_text("kept")
    write(folder, evaluation, leaderboard, "new")
    assert (folder / "report.html").read_text() == "new"
    assert (folder / "plots" / "mine.csv").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["reports"]


def test_what_git_has_is_only_changed_on_request(
    tmp_path: Path, evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    def written(folder: Path) -> dict[str, bytes]:
        paths = [path for path in folder.rglob("*.*") if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}

    folder = tmp_path / "reports"
    write(folder, evaluation, leaderboard, record=False)
    last = written(folder / "last")
    assert "metrics.json" in last and len(last) == 5
    assert written(folder).keys() == {
        "report.html",
        "label_issues.csv",
        *(f"last/{name}" for name in last),
    }
    write(folder, evaluation, leaderboard)
    recorded = written(folder)
    assert {name: recorded[name] for name in last} == last == written(folder / "last")


def test_a_failure_changes_nothing(
    tmp_path: Path, evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    folder = tmp_path / "reports"
    write(folder, evaluation, leaderboard, "old")
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    evaluation["metrics"]["accuracy"] = 0.0
    del leaderboard["candidates"][1]["folds"][1]["history"][1]["val_loss"]
    with pytest.raises(KeyError):
        write(folder, evaluation, leaderboard, "new")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


@pytest.mark.usefixtures("undrawn")
def test_heads_alone_have_no_learning_curves(
    evaluation: dict[str, Any], leaderboard: dict[str, Any], tmp_path: Path
) -> None:
    leaderboard["num_epochs"] = None
    for entry in leaderboard["candidates"]:
        del entry["candidate"]["learning_rate"]
        for fold in entry["folds"]:
            fold["history"] = []
    page = render(evaluation, leaderboard)
    assert "for 2 epochs" not in page and "learning_curves" not in page
    write(tmp_path, evaluation, leaderboard, page)
    assert _rows(tmp_path / "plots" / "learning_curves.csv") == []


@pytest.mark.usefixtures("undrawn")
def test_a_diverged_candidate_is_the_tables_last_row(
    evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    wild = {"name": "layer4 lr=9", "freeze_backbone": False, "train_from": "layer4"}
    wild["weight_decay"] = 0.1
    folds = [{"fold": 1, "epoch": 3}]
    leaderboard["diverged"] = [{"candidate": wild, "folds": folds}]
    page = render(evaluation, leaderboard)
    table = page[page.index('id="leaderboard"') : page.index('id="learning-curves"')]
    last = table[table.rindex("<tr") : table.index("</tbody>")]
    assert "layer4 lr=9" in last and "fold 1 (epoch 3)" in last


@pytest.mark.usefixtures("undrawn")
def test_several_backbones_have_a_table_of_their_costs(
    evaluation: dict[str, Any], leaderboard: dict[str, Any]
) -> None:
    assert 'id="backbones"' not in render(evaluation, leaderboard)
    small = {"name": "<small>", "num_parameters": 1_230_000, "milliseconds": None}
    leaderboard["candidates"] += [_candidate("best of small", 0.7), _candidate("other", 0.6)]
    for entry in leaderboard["candidates"][2:]:
        entry["backbone"] = FACTS.model_copy(update=small)
    page = render(evaluation, leaderboard)
    table = page[page.index('id="backbones"') :]
    rows = table[: table.index("</tbody>")].split("<tr")[2:]
    assert ["resnet18" in row and "quick" in row and "1.5" in row for row in rows] == [True, False]
    assert "&lt;small&gt;" in rows[1] and "1.23" in rows[1] and "best of small" in rows[1]
