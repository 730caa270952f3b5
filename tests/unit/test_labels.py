import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from mlflow.entities.model_registry import ModelVersion
from rich.console import Console, RenderableType

from crossfold import labels
from crossfold.cli import summary, version_tables
from crossfold.data.findings import DataFacts
from crossfold.evaluation.cross_validation import aggregate_cv
from crossfold.network import safetensors_file
from crossfold.records import Evaluation, Leaderboard, Registration
from crossfold.registry import model_card
from crossfold.report import page
from crossfold.report.pictures import DataSummary
from crossfold.runners.outcome import Outcome

RECORDED = Path(__file__).parent / "recorded"
KAPPA = labels.Metric("kappa", "Cohen's kappa", "kappa", in_folds=True)


@pytest.fixture(autouse=True)
def metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "METRICS", (*labels.METRICS, KAPPA))


@pytest.fixture
def board() -> Leaderboard:
    values = json.loads((RECORDED / "leaderboard.json").read_text())
    for entry in values["candidates"]:
        entry["mean"]["kappa"], entry["std"]["kappa"] = 0.8125, 0.0625
        entry["interval"]["kappa"] = [0.75, 0.875]
        for fold in entry["folds"]:
            fold["kappa"] = 0.8125
            for epoch in fold["history"]:
                epoch |= {"train_kappa": 0.5625, "val_kappa": 0.5}
    return Leaderboard.model_validate(values)


@pytest.fixture
def evaluation() -> Evaluation:
    values = json.loads((RECORDED / "evaluation.json").read_text())
    values["metrics"]["kappa"] = 0.6875
    values["intervals"]["kappa"] = [0.625, 0.71875]
    return Evaluation.model_validate(values)


@pytest.fixture
def tags(board: Leaderboard, evaluation: Evaluation) -> dict[str, str]:
    scores = board.chosen.summary | evaluation.summary
    of_model = {"architecture": "resnet18", "candidate": board.chosen.candidate.name}
    counts = {"num_train_images": "9", "num_test_images": "3"}
    return {**of_model, **counts, **{name: str(value) for name, value in scores.items()}}


REGISTRATION = Registration.read(RECORDED / "registration.json")


def printed(*parts: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(*parts)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_new_metric_is_in_the_report(
    board: Leaderboard, evaluation: Evaluation, tags: dict[str, str]
) -> None:
    counts = {"train": {"0": 5, "1": 4}, "test": {"0": 3}}
    paths = dict.fromkeys(evaluation.paths, "data:,")
    data = DataSummary(counts, "cd" * 16, (), DataFacts(), {}, paths, {})
    html = page.render(evaluation, board, data, registration=REGISTRATION, lineage=tags)
    headline = html[html.index('id="headline"') : html.index('id="gate"')]
    for expected in ("<dt>Cohen&#39;s kappa</dt>", "0.6875", "0.6250 to 0.7188"):
        assert expected in headline
    candidates = html[html.index("<h2>Candidates") : html.index("<h2>Learning curves")]
    for expected in ("<th>Cohen&#39;s kappa</th>", 'data-label="Cohen&#39;s kappa">0.8125'):
        assert expected in candidates


def test_a_new_metric_is_in_the_model_card(
    board: Leaderboard, evaluation: Evaluation, tags: dict[str, str]
) -> None:
    card = model_card.render(tags, board, evaluation, REGISTRATION)
    row = "| Cohen's kappa | 0.6875 | 0.6250 to 0.7188 | 0.8125 ± 0.0625 |"
    assert row in card


def test_a_new_metric_is_in_the_terminal(
    board: Leaderboard, evaluation: Evaluation, tags: dict[str, str]
) -> None:
    outcome = Outcome(board, evaluation, REGISTRATION, "", 7, 0, ())
    shown = printed(summary._render(outcome))
    assert shown.count("kappa") == 2
    assert "0.8125 ± 0.0625" in shown and "0.6875" in shown
    version = SimpleNamespace(
        name="crossfold", version=2, aliases=[], creation_timestamp=0, tags=tags
    )
    lineage = printed(version_tables.lineage_table(cast(ModelVersion, version)))
    for tag in ("test_kappa", "cv_kappa", "cv_kappa_std"):
        assert tag in lineage
    assert "Other" not in lineage


def test_a_new_metric_is_in_mlflow_and_dvc(
    board: Leaderboard, evaluation: Evaluation, tmp_path: Path
) -> None:
    logged = board.chosen.summary | evaluation.summary
    assert (
        logged.items() >= {"cv_kappa": 0.8125, "cv_kappa_std": 0.0625, "test_kappa": 0.6875}.items()
    )
    outcome = Outcome(board, evaluation, REGISTRATION, "", 7, 0, ())
    outcome.write_reports(tmp_path, record=True)
    tracked = json.loads((tmp_path / "reports/metrics.json").read_text())
    assert (tracked["cv"]["kappa"], tracked["test"]["kappa"]) == (0.8125, 0.6875)
    columns, *_ = (tmp_path / "reports/plots/learning_curves.csv").read_text().splitlines()
    assert {"train_kappa", "val_kappa"} <= set(columns.split(","))


def test_a_new_metric_is_summarised_over_the_folds(tmp_path: Path) -> None:
    candidate = {"name": "a", "freeze_backbone": True, "train_from": "head", "weight_decay": 1.0}
    for fold in range(2):
        scores = {metric.name: fold / 2 for metric in labels.METRICS}
        result: dict[str, Any] = {"candidate": candidate, "fold": fold, "num_epochs": None}
        result |= {"history": [], **scores}
        arrays = {
            "label": np.array([0, 1]),
            "probabilities_0": np.array([[0.75, 0.25], [0.5, 0.5]], np.float32),
        }
        about = {"classes": ["cat", "dog"], "results": [result]}
        safetensors_file.write(tmp_path / str(fold), arrays, about)
    board = aggregate_cv(
        predictions=[tmp_path / "0", tmp_path / "1"],
        architecture="resnet18",
        leaderboard=tmp_path / "leaderboard",
    )
    assert board.chosen.mean["kappa"] == 0.25


def test_no_tag_is_listed_twice_and_a_section_is_in_one_piece() -> None:
    tags = labels.tags()
    names = [tag.name for tag in tags]
    assert len(names) == len(set(names))
    sections = [tag.section for tag in tags]
    assert sections == sorted(sections, key=sections.index)


def test_of_equal_macro_f1_the_lower_loss_ranks_first() -> None:
    scores = [{"macro_f1": f1, "loss": loss} for f1, loss in ((0.5, 0.1), (0.9, 0.3), (0.9, 0.2))]
    assert sorted(scores, key=labels.rank) == [scores[2], scores[1], scores[0]]
