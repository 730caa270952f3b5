"""The report of a run: one HTML page for people, and files for DVC's metrics and plots."""

import csv
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from crossfold import figures, metrics

NUM_MISTAKES_SHOWN = 20
MAX_CLASSES_FITTED = 14  # with more, the confusion matrix scrolls instead of being scaled down
MICRO_AVERAGE = "(micro average)"
HISTORY_COLUMNS = (
    "candidate",
    "fold",
    "epoch",
    "train_loss",
    "val_loss",
    "train_accuracy",
    "val_accuracy",
    "train_macro_f1",
    "val_macro_f1",
)


@dataclass(frozen=True)
class Predictions:
    """The test split: labels, shape [N], probabilities, shape [N, K], and what follows of them."""

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    predicted: NDArray[np.int64]
    confusion: NDArray[np.int64]
    roc: metrics.Curves
    pr: metrics.Curves

    @property
    def num_right(self) -> int:
        """The number of images whose most probable class is the true one."""
        return int(np.trace(self.confusion))


@dataclass(frozen=True)
class Drawing:
    """A figure on the page; `alternative` says in words what it shows."""

    svg: str
    alternative: str
    wide: bool = False


def render(
    evaluation: dict[str, Any], leaderboard: dict[str, Any], data_summary: dict[str, Any]
) -> str:
    """Return the report as one HTML page that loads nothing and runs no script.

    Args:
        evaluation: What `evaluate_test` measured.
        leaderboard: What `aggregate_cv` found.
        data_summary: "counts": split -> class -> images, "data_hash", "skipped": paths.
    """
    test = _predictions(evaluation)
    page = _environment().get_template("report.html")
    return page.render(
        evaluation=evaluation,
        leaderboard=leaderboard,
        ranked=figures.ranked(leaderboard),
        test=test,
        accuracy_interval=metrics.wilson_interval(test.num_right, len(test.labels)),
        class_rows=_class_rows(test),
        left_out=[(test.classes[i], reason) for i, reason in test.roc.left_out.items()],
        mistakes=_confident_mistakes(test),
        num_mistakes=len(test.labels) - test.num_right,
        data_rows=_data_rows(test.classes, data_summary["counts"]),
        data_summary=data_summary,
        drawings=_drawings(test, leaderboard),
        max_candidates_drawn=figures.MAX_CANDIDATES_DRAWN,
        max_classes_drawn=figures.MAX_CLASSES_IN_LEGEND,
        num_worst_classes=figures.NUM_WORST_CLASSES,
    )


def complete(draft: str, *, registration: Mapping[str, Any], lineage: Mapping[str, str]) -> str:
    """Return a drafted page with the gate's decision and the lineage."""
    return draft


def write_reports(
    folder: Path, *, evaluation: dict[str, Any], leaderboard: dict[str, Any], report_html: str
) -> None:
    """Write metrics.json, report.html and plots/*.csv into `folder`; other files there stay.

    All are written beside `folder` first and moved when complete.
    """
    test = _predictions(evaluation)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as new:
        staged = Path(new)
        plots = staged / "plots"
        plots.mkdir()
        tracked = _tracked_metrics(evaluation, leaderboard)
        text = json.dumps(tracked, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (staged / "metrics.json").write_text(text, encoding="utf-8")
        (staged / "report.html").write_text(report_html, encoding="utf-8")
        _write_csv(plots / "confusion.csv", ("actual", "predicted"), _confusion_rows(test))
        roc, pr = _curve_rows(test.roc, test.classes), _curve_rows(test.pr, test.classes)
        _write_csv(plots / "roc.csv", ("class", "fpr", "tpr"), roc)
        _write_csv(plots / "pr.csv", ("class", "recall", "precision"), pr)
        _write_csv(plots / "learning_curves.csv", HISTORY_COLUMNS, _history_rows(leaderboard))
        (folder / "plots").mkdir(parents=True, exist_ok=True)
        for path in sorted(staged.rglob("*.*")):
            path.replace(folder / path.relative_to(staged))


def _predictions(evaluation: dict[str, Any]) -> Predictions:
    probabilities = np.array(evaluation["probabilities"], np.float64)
    return Predictions(
        classes=tuple(evaluation["classes"]),
        paths=tuple(evaluation["paths"]),
        labels=np.array(evaluation["labels"], np.int64),
        probabilities=probabilities,
        predicted=probabilities.argmax(axis=1),
        confusion=np.array(evaluation["confusion_matrix"], np.int64),
        roc=metrics.Curves.from_json(evaluation["curves"]["roc"]),
        pr=metrics.Curves.from_json(evaluation["curves"]["pr"]),
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("crossfold"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.2f}\N{NO-BREAK SPACE}%"
    environment.filters["fixed"] = lambda number, digits=4: f"{number:.{digits}f}"
    environment.filters["share_interval"] = _share_interval
    return environment


def _share_interval(interval: Sequence[float]) -> str:
    low, high = interval
    return f"{max(low, 0):.4f} to {min(high, 1):.4f}"


def _drawings(test: Predictions, leaderboard: dict[str, Any]) -> dict[str, Drawing]:
    best = figures.ranked(leaderboard)[0]
    names = ", ".join(entry["candidate"]["name"] for entry in figures.ranked(leaderboard))
    return {
        "leaderboard": _drawing(
            figures.leaderboard(leaderboard),
            "Macro F1 of each candidate in cross-validation, with interval. The best is "
            f"{best['candidate']['name']} with {best['mean']['macro_f1']:.4f}.",
        ),
        "learning_curves": _drawing(
            figures.learning_curves(leaderboard),
            f"Training and validation loss, and validation macro F1, by epoch for: {names}.",
        ),
        "confusion_matrix": _drawing(
            figures.confusion_matrix(test.confusion, test.classes),
            f"Confusion matrix: {test.num_right} of {len(test.labels)} test images on the "
            f"diagonal. {_largest_confusion(test)}",
            wide=len(test.classes) > MAX_CLASSES_FITTED,
        ),
        "pr_curves": _drawing(
            figures.pr_curves(test.pr, test.classes),
            "Precision-recall curves, one class against the rest. Average precision: "
            f"{_areas(test.pr, test.classes)}.",
        ),
        "roc_curves": _drawing(
            figures.roc_curves(test.roc, test.classes),
            "ROC curves, one class against the rest. Area under the curve: "
            f"{_areas(test.roc, test.classes)}.",
        ),
    }


def _drawing(figure: Figure, alternative: str, wide: bool = False) -> Drawing:
    return Drawing(figures.to_svg(figure), alternative, wide)


def _largest_confusion(test: Predictions) -> str:
    mistakes = test.confusion - np.diag(np.diagonal(test.confusion))
    if not mistakes.any():
        return "No mistake."
    true, predicted = np.unravel_index(mistakes.argmax(), mistakes.shape)
    return (
        f"The most frequent mistake: {test.classes[true]} taken for {test.classes[predicted]}, "
        f"images: {mistakes[true, predicted]}."
    )


def _areas(curves: metrics.Curves, classes: Sequence[str]) -> str:
    by_class = [f"{classes[i]} {curve.area:.3f}" for i, curve in curves.per_class.items()]
    return ", ".join([f"micro average {curves.micro.area:.3f}", *by_class])


def _class_rows(test: Predictions) -> list[dict[str, Any]]:
    by_class = metrics.class_scores(test.confusion)
    return [
        dict(zip(("name", "precision", "recall", "f1", "support"), values, strict=True))
        for values in zip(test.classes, *by_class, strict=True)
    ]


def _confident_mistakes(test: Predictions) -> list[dict[str, Any]]:
    """The mistakes with the highest probability of the predicted class, ties by path."""
    confidence = test.probabilities.max(axis=1)
    wrong = np.flatnonzero(test.predicted != test.labels)
    surest = sorted(wrong.tolist(), key=lambda i: (-confidence[i], test.paths[i]))
    return [
        {
            "path": test.paths[i],
            "true": test.classes[test.labels[i]],
            "predicted": test.classes[test.predicted[i]],
            "probability": confidence[i],
            "probability_of_true": test.probabilities[i, test.labels[i]],
        }
        for i in surest[:NUM_MISTAKES_SHOWN]
    ]


def _data_rows(
    classes: Sequence[str], counts: dict[str, dict[str, int]]
) -> list[tuple[str, int, int]]:
    """Class, images to train and validate on, test images; the last row is the sum."""
    rows = [(c, counts["train"].get(c, 0), counts["test"].get(c, 0)) for c in classes]
    return [*rows, ("all classes", sum(row[1] for row in rows), sum(row[2] for row in rows))]


def _tracked_metrics(evaluation: dict[str, Any], leaderboard: dict[str, Any]) -> dict[str, Any]:
    best = leaderboard["candidates"][leaderboard["best"]]
    spread = {f"{name}_std": value for name, value in best["std"].items()}
    return {
        "candidate": best["candidate"]["name"],
        "cv": {**best["mean"], **spread},
        "test": evaluation["metrics"],
    }


def _confusion_rows(test: Predictions) -> Iterable[Sequence[object]]:
    for label, predicted in zip(test.labels, test.predicted, strict=True):
        yield test.classes[label], test.classes[predicted]


def _curve_rows(curves: metrics.Curves, classes: Sequence[str]) -> Iterable[Sequence[object]]:
    named = [(classes[i], curve) for i, curve in curves.per_class.items()]
    for name, curve in [(MICRO_AVERAGE, curves.micro), *named]:
        for x, y in zip(curve.x, curve.y, strict=True):
            yield name, x, y


def _history_rows(leaderboard: dict[str, Any]) -> Iterable[Sequence[object]]:
    for entry in leaderboard["candidates"]:
        for fold in entry["folds"]:
            for epoch in fold["history"]:
                row = {"candidate": entry["candidate"]["name"], "fold": fold["fold"], **epoch}
                yield [row[column] for column in HISTORY_COLUMNS]


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
