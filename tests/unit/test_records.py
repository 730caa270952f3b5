import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from crossfold.evaluation.metrics import METRICS
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.records import (
    CheckedNetwork,
    DivergedResult,
    Evaluation,
    FoldResult,
    FoldResults,
    Leaderboard,
    Record,
    Registration,
)

RECORDED = Path(__file__).parent / "recorded"  # as json.dumps writes them
FILES = {
    "leaderboard.json": Leaderboard,
    "evaluation.json": Evaluation,
    "registration.json": Registration,
}


@pytest.mark.parametrize(("name", "record"), FILES.items(), ids=FILES)
def test_a_file_is_written_as_it_was_read(name: str, record: type[Record], tmp_path: Path) -> None:
    record.read(RECORDED / name).write(tmp_path / name)
    assert (tmp_path / name).read_bytes() == (RECORDED / name).read_bytes()


def test_a_fold_keeps_its_scores_among_its_other_keys() -> None:
    board = Leaderboard.read(RECORDED / "leaderboard.json")
    fold = board.chosen.folds[0]
    assert set(fold.scores) == {metric.name for metric in METRICS}
    assert {"train_loss", "val_macro_f1"} < set(fold.history[0].scores)
    assert list(fold.model_dump()) == sorted(fold.model_dump())


def test_a_fold_has_scores_or_has_diverged() -> None:
    candidate = {"name": "a", "freeze_backbone": True, "train_from": "head", "weight_decay": 1.0}
    common = {"candidate": candidate, "fold": 1, "num_epochs": None}
    header = {
        "classes": ["cat", "dog"],
        "backbones": [],
        "results": [{**common, "history": [], "loss": 0.5}, {**common, "diverged": None}],
    }
    found = FoldResults.model_validate(header)
    scored, diverged = found.results
    assert isinstance(scored, FoldResult) and isinstance(diverged, DivergedResult)
    assert scored.scores == scored.without_candidate.scores == {"loss": 0.5}
    assert json.loads(found.to_json()) == header


def test_a_record_is_frozen_and_checked() -> None:
    registration = Registration.read(RECORDED / "registration.json")
    with pytest.raises(ValidationError):
        registration.gate = "passed"
    values = json.loads(registration.to_json())
    with pytest.raises(ValidationError):
        Registration.model_validate({**values, "verdict": "splendid"})
    assert Registration.model_validate({**values, "of_a_later_version": 1}) == registration


def test_of_equal_macro_f1_the_lower_loss_ranks_first() -> None:
    entry = Leaderboard.read(RECORDED / "leaderboard.json").chosen
    scores = [{"macro_f1": f1, "loss": loss} for f1, loss in ((0.5, 0.1), (0.9, 0.3), (0.9, 0.2))]
    entries = [entry.model_copy(update={"mean": mean}) for mean in scores]
    assert sorted(entries, key=lambda entry: entry.rank) == entries[::-1]


def test_the_chosen_candidate_is_ranked_first() -> None:
    board = Leaderboard.read(RECORDED / "leaderboard.json")
    assert [entry.candidate.name for entry in board.ranked] == [
        "layer4 lr=0.001 wd=0.05",
        "head wd=0.01",
    ]
    assert board.with_epochs == [board.chosen]
    assert board.chosen.candidate.hyper_parameters == {
        "freeze_backbone": False,
        "train_from": "layer4",
        "learning_rate": 0.001,
        "weight_decay": 0.05,
    }


# Records that only save time

CHECKED = CheckedNetwork(source="model", preprocessing=Preprocessing(32), num_bytes_stored=2048)


def test_a_remembered_record_is_recalled(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "entry.json"
    assert CheckedNetwork.recall(path) is None
    CHECKED.remember(path)
    assert CheckedNetwork.recall(path) == CHECKED


@pytest.mark.parametrize("content", [b"", b'{"source": "mo', b'{"state": "ab"}', b"\xff"])
def test_a_file_without_such_a_record_is_no_entry(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "entry.json").write_bytes(content)
    assert CheckedNetwork.recall(tmp_path / "entry.json") is None


def test_a_record_without_a_folder_or_space_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    CHECKED.remember(tmp_path / "file" / "entry.json")
    (tmp_path / "entry.json.part").symlink_to("/dev/full")
    CHECKED.remember(tmp_path / "entry.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_two_commands_may_remember_the_same_at_once(tmp_path: Path) -> None:
    path = tmp_path / "entry.json"

    class Slow(CheckedNetwork):
        def write(self, part: Path) -> None:
            super().write(part)
            CHECKED.remember(path)

    Slow(**dict(CHECKED)).remember(path)
    assert CheckedNetwork.recall(path) == CHECKED
