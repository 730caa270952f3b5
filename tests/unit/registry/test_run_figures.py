"""Figures are drawn anew if anything that they depend on has changed, and else copied."""

import io
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from mlflow.tracking import MlflowClient

from crossfold.diagnosis.findings import Diagnosis
from crossfold.records import Drawing, Evaluation, Leaderboard
from crossfold.registry import run_figures
from crossfold.report import figures
from crossfold.tracking import run_tree, store
from tests.unit.conftest import save_empty

RECORDED = Path(__file__).parents[1] / "recorded"
BOARD = Leaderboard.read(RECORDED / "leaderboard.json")
EVALUATION = Evaluation.read(RECORDED / "evaluation.json")


@pytest.fixture
def client(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "digits")
    return store.connect()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were drawn."""
    drawn: list[Figure] = []

    def save(figure: Figure, file: io.BytesIO, **_: object) -> None:
        drawn.append(figure)
        save_empty(figure, file)

    def to_svg(figure: Figure) -> str:
        drawn.append(figure)
        return "<svg></svg>"

    monkeypatch.setattr(Figure, "savefig", save)
    monkeypatch.setattr(figures, "to_svg", to_svg)
    return drawn


def log(
    run_id: str,
    board: Leaderboard = BOARD,
    evaluation: Evaluation = EVALUATION,
    code: str = "crossfold-train:abc",
) -> Mapping[str, Drawing]:
    parent = run_tree.parent_run(run_id, name="digits")
    return run_figures.log_figures(parent, board, evaluation, Diagnosis(left_out={}), code)


def files(client: MlflowClient, number: int) -> dict[str, int | None]:
    """List a run's artifacts with their sizes."""
    (run,) = client.search_runs(["1"], f"tags.crossfold.run_id = 'run-{number}'")
    plots = client.list_artifacts(run.info.run_id, "plots")
    return {file.path: file.file_size for file in plots + client.list_artifacts(run.info.run_id)}


def test_a_run_with_the_same_results_copies_the_figures(
    client: MlflowClient, drawn: list[Figure]
) -> None:
    first = log("run-1")
    assert drawn
    drawn.clear()
    assert log("run-2") == first
    assert not drawn
    assert files(client, 2) == files(client, 1)
    assert "plots/confusion_matrix.png" in files(client, 2)
    (run,) = client.search_runs(["1"], "tags.crossfold.run_id = 'run-1'")
    client.delete_run(run.info.run_id)
    assert log("run-3") == first  # from the second
    assert not drawn


def test_other_results_code_or_libraries_are_drawn(
    client: MlflowClient, drawn: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    log("run-1")
    other_board = BOARD.model_copy(update={"temperature": BOARD.temperature + 1})
    other_labels = (1, *EVALUATION.labels[1:])
    other_evaluation = EVALUATION.model_copy(update={"labels": other_labels})
    for change in (
        {"board": other_board},
        {"evaluation": other_evaluation},
        {"code": "crossfold-train:def"},
    ):
        drawn.clear()
        log("run-2", **change)
        assert drawn
    drawn.clear()
    monkeypatch.setattr(run_figures, "version", lambda name: f"{name} 99")
    log("run-3")
    assert drawn


@pytest.mark.parametrize("gone", ["plots", "figures.json"])
def test_figures_that_a_user_has_deleted_are_drawn(
    client: MlflowClient, drawn: list[Figure], tmp_path: Path, gone: str
) -> None:
    log("run-1")
    drawn.clear()
    (path,) = tmp_path.rglob(gone)
    path.unlink() if path.is_file() else shutil.rmtree(path)
    log("run-2")
    assert drawn
    assert len(files(client, 2)) > 4
