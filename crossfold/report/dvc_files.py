"""Write a run's files in reports/: the page, and metrics and plots for DVC."""

import csv
import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from crossfold.diagnosis.findings import Diagnosis
from crossfold.diagnosis.labels.label_errors import LabelIssue
from crossfold.evaluation.metrics import fold_metrics
from crossfold.records import Curves, Evaluation, Leaderboard

from .predictions import Predictions, predictions

LAST = "last"
LABEL_ISSUES = "label_issues.csv"
MICRO_AVERAGE = "(micro average)"


def write_reports(
    folder: Path,
    *,
    evaluation: Evaluation,
    leaderboard: Leaderboard,
    diagnosis: Diagnosis,
    report_html: str,
    record: bool,
) -> None:
    """Write report.html, label_issues.csv, and last/metrics.json and last/plots/*.csv in `folder`.

    With `record`, metrics.json and plots/*.csv are also written into `folder` itself, where git and
    DVC compare them. Other files there stay. All files are written next to `folder` first, and
    moved into it when they are complete.
    """
    test = predictions(evaluation)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as new:
        staged = Path(new)
        numbers = staged / LAST
        plots = numbers / "plots"
        plots.mkdir(parents=True)
        tracked = _tracked_metrics(evaluation, leaderboard)
        text = json.dumps(tracked, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (numbers / "metrics.json").write_text(text, encoding="utf-8")
        (staged / "report.html").write_text(report_html, encoding="utf-8")
        issues = diagnosis.label_errors.issues if diagnosis.label_errors else ()
        _write_csv(
            staged / LABEL_ISSUES,
            tuple(LabelIssue.model_fields),
            (tuple(issue.model_dump().values()) for issue in issues),
        )
        _write_csv(plots / "confusion.csv", ("actual", "predicted"), _confusion_rows(test))
        roc, pr = _curve_rows(test.roc, test.classes), _curve_rows(test.pr, test.classes)
        _write_csv(plots / "roc.csv", ("class", "fpr", "tpr"), roc)
        _write_csv(plots / "pr.csv", ("class", "recall", "precision"), pr)
        _write_csv(plots / "learning_curves.csv", history_columns(), _history_rows(leaderboard))
        if record:
            shutil.copytree(numbers, staged, dirs_exist_ok=True)
        for path in sorted(staged.rglob("*.*")):
            target = folder / path.relative_to(staged)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)


def _tracked_metrics(evaluation: Evaluation, leaderboard: Leaderboard) -> dict[str, Any]:
    chosen = leaderboard.chosen
    spread = {f"{name}_std": value for name, value in chosen.std.items()}
    return {
        "candidate": chosen.candidate.name,
        "cv": {**chosen.mean, **spread},
        "test": evaluation.metrics,
    }


def _confusion_rows(test: Predictions) -> Iterable[Sequence[object]]:
    for label, predicted in zip(test.labels, test.predicted, strict=True):
        yield test.classes[label], test.classes[predicted]


def _curve_rows(curves: Curves, classes: Sequence[str]) -> Iterable[Sequence[object]]:
    named = [(classes[i], curve) for i, curve in curves.per_class.items()]
    for name, curve in [(MICRO_AVERAGE, curves.micro), *named]:
        for x, y in zip(curve.x, curve.y, strict=True):
            yield name, x, y


def history_columns() -> list[str]:
    """List the columns of learning_curves.csv."""
    # Loss first: the order of the files committed to git.
    metrics = reversed(fold_metrics())
    scores = [f"{split}_{metric.name}" for metric in metrics for split in ("train", "val")]
    return ["candidate", "fold", "epoch", *scores]


def _history_rows(leaderboard: Leaderboard) -> Iterable[Sequence[object]]:
    _, _, *columns = history_columns()
    for entry in leaderboard.candidates:
        for fold in entry.folds:
            for epoch in fold.history:
                values = epoch.model_dump()
                yield entry.candidate.name, fold.fold, *(values[column] for column in columns)


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
