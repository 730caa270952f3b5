"""A row in METRICS is all that a new metric needs: these tests add one and find it everywhere."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from mlflow.entities.model_registry import ModelVersion
from rich.console import Console, RenderableType
from sklearn.metrics import cohen_kappa_score

from crossfold.cli import summary
from crossfold.cli.versions import version_tables
from crossfold.data.examination.findings import DataFacts
from crossfold.data.examples import Examples
from crossfold.diagnosis.findings import Diagnosis
from crossfold.evaluation import metrics
from crossfold.evaluation.cross_validation import aggregate_cv
from crossfold.evaluation.metrics import Metric, Sample
from crossfold.network import safetensors_file
from crossfold.records import Choice, Evaluation, Leaderboard, Registration
from crossfold.registry import model_card, version_tags
from crossfold.report import page
from crossfold.report.drawings import draw
from crossfold.report.pictures import DataSummary
from crossfold.runners.outcome import Outcome
from tests.unit.networks import FACTS

RECORDED = Path(__file__).parent / "recorded"
REGISTRATION = Registration.read(RECORDED / "registration.json")
LABELS = np.arange(60) % 3
PROBABILITIES = np.random.default_rng(0).dirichlet([1, 1, 1], 60) * 0.75 + np.eye(3)[LABELS] * 0.25


def kappa(sample: Sample) -> Any:
    counts, num_images = sample.counts, len(sample.labels)
    by_chance = (counts.predicted * counts.support).sum(axis=0) / num_images**2
    return (counts.hits.sum(axis=0) / num_images - by_chance) / (1 - by_chance)


NO_FINDINGS = Diagnosis(left_out={})


@pytest.fixture(autouse=True)
def _new_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Metric("kappa", "Cohen's kappa", "kappa", kappa, in_folds=True)
    monkeypatch.setattr(metrics, "METRICS", (*metrics.METRICS, row))


@pytest.fixture
def board(tmp_path: Path) -> Leaderboard:
    """A real leaderboard of one candidate in two folds, which both hold the same predictions."""
    scores = metrics.scores(LABELS, PROBABILITIES)
    epoch = {f"{split}_{name}": scores[name] for split in ("train", "val") for name in scores}
    candidate = {"name": "a", "freeze_backbone": True, "train_from": "head", "weight_decay": 1.0}
    for fold in range(2):
        result = {"candidate": candidate, "fold": fold, "num_epochs": 1}
        result |= {"history": [{"epoch": 1, **epoch}], **scores}
        safetensors_file.write(
            tmp_path / str(fold),
            {"label": LABELS, "probabilities_0": PROBABILITIES.astype(np.float32)},
            {
                "classes": ["cat", "dog", "owl"],
                "backbones": [FACTS.model_dump()],
                "results": [result],
            },
        )
    return aggregate_cv(
        predictions=[tmp_path / "0", tmp_path / "1"],
        choice=Choice.BEST,
        leaderboard=tmp_path / "leaderboard",
    )


@pytest.fixture
def evaluation() -> Evaluation:
    scores = {
        "metrics": metrics.scores(LABELS, PROBABILITIES),
        "intervals": metrics.bootstrap_intervals(LABELS, PROBABILITIES),
    }
    return Evaluation.read(RECORDED / "evaluation.json").model_copy(update=scores)


@pytest.fixture
def tags(board: Leaderboard, evaluation: Evaluation) -> dict[str, str]:
    table = cast(Examples, SimpleNamespace(count=lambda split: 3))
    return version_tags.of_model(board, evaluation, table)


def printed(*parts: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(*parts)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_new_metric_is_computed_with_its_interval(evaluation: Evaluation) -> None:
    expected = cohen_kappa_score(LABELS, PROBABILITIES.argmax(axis=1))
    assert evaluation.metrics["kappa"] == pytest.approx(expected)
    low, high = evaluation.intervals["kappa"]
    assert low < expected < high


def test_a_new_metric_changes_no_other_interval(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    brier = Metric(
        *("brier", "Brier score", "Brier"),
        lambda s: s.mean(((s.probabilities - np.eye(3)[s.labels]) ** 2).sum(axis=1)),
    )
    monkeypatch.setattr(metrics, "METRICS", (brier, *metrics.METRICS))
    intervals = metrics.bootstrap_intervals(LABELS, PROBABILITIES)
    assert intervals.pop("brier")
    assert intervals == evaluation.intervals


def test_a_new_metric_is_in_the_report(
    board: Leaderboard, evaluation: Evaluation, tags: dict[str, str]
) -> None:
    counts = {"train": {"0": 5, "1": 4}, "test": {"0": 3}}
    paths = dict.fromkeys(evaluation.paths, "data:,")
    data = DataSummary(counts, "cd" * 16, (), DataFacts(), {}, paths, {}, {})
    html = page.render(
        evaluation,
        board,
        NO_FINDINGS,
        data,
        draw(evaluation, board, NO_FINDINGS),
        registration=REGISTRATION,
        lineage=tags,
    )
    headline = html[html.index('id="headline"') : html.index('id="gate"')]
    low, high = evaluation.intervals["kappa"]
    value = f"{evaluation.metrics['kappa']:.4f}"
    for expected in ("<dt>Cohen&#39;s kappa</dt>", value, f"{low:.4f} to {high:.4f}"):
        assert expected in headline
    candidates = html[html.index('id="leaderboard"') : html.index('id="learning-curves"')]
    for expected in ("<th>Cohen&#39;s kappa</th>", f'data-label="Cohen&#39;s kappa">{value}'):
        assert expected in candidates


def test_a_new_metric_is_in_the_model_card(
    board: Leaderboard, evaluation: Evaluation, tags: dict[str, str]
) -> None:
    card = model_card.render(tags, board, evaluation, REGISTRATION)
    low, high = evaluation.intervals["kappa"]
    value = f"{evaluation.metrics['kappa']:.4f}"
    assert f"| Cohen's kappa | {value} | {low:.4f} to {high:.4f} | {value} ± 0.0000 |" in card


def test_a_new_metric_is_in_the_terminal(
    board: Leaderboard, evaluation: Evaluation, tags: dict[str, str]
) -> None:
    shown = printed(
        summary._render(Outcome(board, evaluation, NO_FINDINGS, REGISTRATION, "", 7, 0, ()), 200)
    )
    value = f"{evaluation.metrics['kappa']:.4f}"
    assert shown.count("kappa") == 2
    assert f"{value} ± 0.0000" in shown and shown.count(value) >= 2
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
    assert {"cv_kappa", "cv_kappa_std", "test_kappa"} <= logged.keys()
    outcome = Outcome(board, evaluation, NO_FINDINGS, REGISTRATION, "", 7, 0, ())
    outcome.write_reports(tmp_path, record=True)
    tracked = json.loads((tmp_path / "reports/metrics.json").read_text())
    assert tracked["test"]["kappa"] == tracked["cv"]["kappa"] == evaluation.metrics["kappa"]
    columns, *_ = (tmp_path / "reports/plots/learning_curves.csv").read_text().splitlines()
    assert {"train_kappa", "val_kappa"} <= set(columns.split(","))
