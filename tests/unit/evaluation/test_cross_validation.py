from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest

from crossfold.errors import UserError
from crossfold.evaluation import calibration
from crossfold.evaluation.cross_validation import aggregate_cv
from crossfold.network import safetensors_file
from crossfold.records import Choice, DivergedFold, Leaderboard
from tests.unit.networks import FACTS

CANDIDATE = {"freeze_backbone": True, "train_from": "head", "weight_decay": 0.1}
SMALL = FACTS.model_copy(update={"name": "small", "num_parameters": 2})

# Per candidate and fold: macro F1, loss, number of epochs.
Table = list[list[tuple[float, float, int]]]


def predictions(
    folder: Path, table: Table, sizes: Sequence[str | None] = (None, None, None)
) -> list[Path]:
    """The files of the folds; the candidates are called a, b, c.

    `sizes` are the names of their backbones, if there are two.
    """
    paths = []
    for fold in range(len(table[0])):
        results = [
            {
                "candidate": {**CANDIDATE, "name": name, "backbone": backbone},
                "fold": fold,
                "macro_f1": scores[fold][0],
                "accuracy": scores[fold][0] / 2,
                "loss": scores[fold][1],
                "mcc": scores[fold][0] / 4,
                "num_epochs": scores[fold][2],
                "history": [{"epoch": 1, "val_loss": scores[fold][1]}],
            }
            for name, scores, backbone in zip("abc", table, sizes, strict=False)
        ]
        backbones = [FACTS.model_dump(), SMALL.model_dump()]
        about: dict[str, Any] = {
            "classes": ["x", "y"],
            "backbones": backbones if sizes[0] else backbones[:1],
            "results": results,
        }
        paths.append(folder / f"predictions {fold}")
        arrays = {"row": np.array([fold]), "label": np.array([fold % 2])}
        for index in range(len(table)):
            arrays[f"probabilities_{index}"] = np.array([[0.6, 0.4]], np.float32)
        safetensors_file.write(paths[-1], arrays, about)
    return paths


def aggregate(folder: Path, table: Table) -> Leaderboard:
    return aggregate_cv(
        predictions=predictions(folder, table),
        choice=Choice.BEST,
        leaderboard=folder / "leaderboard",
    )


@pytest.mark.parametrize(
    ("table", "best"),
    [
        # A higher mean wins, though another has the best fold and the lower loss.
        ([[(0.9, 0.9, 1), (0.9, 0.9, 1)], [(1.0, 0.1, 1), (0.7, 0.1, 1)]], 0),
        ([[(0.7, 0.1, 1), (0.7, 0.1, 1)], [(0.8, 2.0, 1), (0.9, 2.0, 1)]], 1),
        # Of equal means the lower loss wins, wherever it stands.
        ([[(0.5, 0.3, 1)] * 2, [(0.5, 0.2, 1)] * 2, [(0.5, 0.4, 1)] * 2], 1),
        ([[(0.5, 0.2, 1)] * 2, [(0.5, 0.3, 1)] * 2, [(0.4, 0.1, 1)] * 2], 0),
    ],
)
def test_the_best_has_the_highest_macro_f1_then_the_lowest_loss(
    tmp_path: Path, table: Table, best: int
) -> None:
    assert aggregate(tmp_path, table).chosen_index == best


ONE_SE = [[(0.9, 0.1, 1), (0.7, 0.1, 1)], [(0.71, 0.1, 1)] * 2, [(0.705, 0.1, 1)] * 2]


@pytest.mark.parametrize(
    ("table", "sizes", "chosen"),
    [
        # The standard error of the best one's mean, 0.8, is 0.1.
        (ONE_SE, ["resnet18", "small", "small"], 1),
        (ONE_SE, ["resnet18", "resnet18", "small"], 2),
        (ONE_SE, ["resnet18", "resnet18", "resnet18"], 0),
        ([ONE_SE[0], [(0.699, 0.1, 1)] * 2], ["resnet18", "small"], 0),
        ([ONE_SE[0], [(0.6, 0.1, 1)] * 2], ["small", "resnet18"], 0),
    ],
)
def test_the_smallest_of_those_within_one_standard_error_can_be_chosen(
    tmp_path: Path, table: Table, sizes: list[str], chosen: int
) -> None:
    board = aggregate_cv(
        predictions=predictions(tmp_path, table, sizes),
        choice=Choice.SMALLEST,
        leaderboard=tmp_path / "leaderboard",
    )
    assert board.chosen_index == chosen and board.ranked[0] is board.candidates[chosen]
    assert board.chosen.against_chosen is None
    assert board.chosen.backbone.name == sizes[chosen]
    assert board.compares_backbones == (len(set(sizes)) > 1)
    best = {entry.backbone.name: entry for entry in reversed(board.ranked)}
    assert board.best_of_backbones == sorted(best.values(), key=board.ranked.index)
    assert (
        aggregate_cv(
            predictions=predictions(tmp_path, table, sizes),
            choice=Choice.BEST,
            leaderboard=tmp_path / "leaderboard",
        ).chosen_index
        == 0
    )


def test_the_leaderboard_has_means_spreads_and_every_fold(tmp_path: Path) -> None:
    f1, loss = [0.7, 0.8, 0.93], [0.5, 0.3, 0.4]
    table = [list(zip(f1, loss, (3, 4, 4), strict=True)), [(0.1, 1.0, 1)] * 3]
    board = aggregate(tmp_path, table)
    entry = board.candidates[0]
    assert entry.candidate.model_dump() == {**CANDIDATE, "name": "a"}
    assert entry.mean == pytest.approx(
        {
            "macro_f1": mean(f1),
            "accuracy": mean(f1) / 2,
            "loss": mean(loss),
            "mcc": mean(f1) / 4,
        }
    )
    assert entry.std == pytest.approx(
        {
            "macro_f1": stdev(f1),
            "accuracy": stdev(f1) / 2,
            "loss": stdev(loss),
            "mcc": stdev(f1) / 4,
        }
    )
    for name, (low, high) in entry.interval.items():
        assert low < entry.mean[name] < high
        assert (low + high) / 2 == pytest.approx(entry.mean[name])
    # Student's quantile for two degrees of freedom; the corrected variance is 1/3 + 1/2 of it.
    low, high = entry.interval["macro_f1"]
    assert (high - low) / 2 == pytest.approx(4.302653 * stdev(f1) * (5 / 6) ** 0.5, rel=1e-6)
    assert [fold.fold for fold in entry.folds] == [0, 1, 2]
    assert [fold.scores["macro_f1"] for fold in entry.folds] == f1
    assert [epoch.model_dump() for epoch in entry.folds[1].history] == [
        {"epoch": 1, "val_loss": 0.3}
    ]
    assert (board.architecture, board.classes, board.num_folds) == ("resnet18", ("x", "y"), 3)


def test_the_epochs_are_those_of_the_best_candidate(tmp_path: Path) -> None:
    other = [(0.5, 0.5, 20)] * 3
    assert aggregate(tmp_path, [other, [(0.6, 0.5, 7)] * 3]).num_epochs == 7


def diverge(path: Path, candidate: int, epoch: int) -> None:
    arrays, about = safetensors_file.read(path)
    kept = {name: np.array(values) for name, values in arrays.items()}
    del kept[f"probabilities_{candidate}"]
    result = about["results"][candidate]
    about["results"][candidate] = {key: result[key] for key in ("candidate", "fold", "num_epochs")}
    about["results"][candidate]["diverged"] = epoch
    safetensors_file.write(path, kept, about)


def test_a_candidate_that_diverged_in_a_fold_comes_after_all_others(tmp_path: Path) -> None:
    paths = predictions(tmp_path, [[(0.9, 0.1, 2)] * 3, [(0.5, 0.5, 4)] * 3, [(0.4, 0.5, 6)] * 3])
    diverge(paths[1], 0, epoch=2)
    board = aggregate_cv(
        predictions=paths, choice=Choice.BEST, leaderboard=tmp_path / "leaderboard"
    )
    assert [entry.candidate.name for entry in board.candidates] == ["b", "c"]
    assert (board.chosen_index, board.num_epochs) == (0, 4)
    (last,) = board.diverged
    assert (last.candidate.name, last.folds) == ("a", (DivergedFold(fold=1, epoch=2),))


def test_it_is_an_error_if_every_candidate_diverged(tmp_path: Path) -> None:
    paths = predictions(tmp_path, [[(0.9, 0.1, 2)] * 3, [(0.5, 0.5, 4)] * 3])
    diverge(paths[0], 0, epoch=1)
    diverge(paths[2], 1, epoch=1)
    with pytest.raises(UserError, match=r"a, b.*learning_rate"):
        aggregate_cv(predictions=paths, choice=Choice.BEST, leaderboard=tmp_path / "leaderboard")


def test_the_temperature_is_that_of_the_best_candidates_out_of_fold_probabilities(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    paths = predictions(tmp_path, [[(0.9, 0.1, 1)] * 3, [(0.8, 0.1, 1)] * 3])
    of_folds = []
    for path in paths:
        labels: np.ndarray = rng.integers(2, size=40)
        sure = np.clip(0.9 * labels + 0.2 * rng.normal(size=40), 0.001, 0.999)
        best: np.ndarray = np.stack([1 - sure, sure], axis=1).astype(np.float32)
        other: np.ndarray = rng.dirichlet([1, 1], size=40).astype(np.float32)
        about = safetensors_file.read_metadata(path)
        arrays = {"label": labels, "probabilities_0": best, "probabilities_1": other}
        safetensors_file.write(path, arrays, about)
        of_folds.append((labels, best))
    board = aggregate_cv(
        predictions=paths[::-1], choice=Choice.BEST, leaderboard=tmp_path / "leaderboard"
    )
    wanted = calibration.fit_temperature(
        *(np.concatenate(of_fold) for of_fold in zip(*of_folds, strict=True))
    )
    assert board.temperature == wanted != 1
    assert Leaderboard.read(tmp_path / "leaderboard").temperature == board.temperature


def test_the_file_is_what_is_returned_whatever_the_order_of_the_folds(tmp_path: Path) -> None:
    table = [[(n / 9, n / 5, n + 1) for n in range(5)]]
    paths = predictions(tmp_path, table)
    boards = []
    for order in (paths, paths[::-1], paths[2:] + paths[:2]):
        board = aggregate_cv(
            predictions=order, choice=Choice.BEST, leaderboard=tmp_path / "leaderboard"
        )
        boards.append((tmp_path / "leaderboard").read_text())
        assert Leaderboard.model_validate_json(boards[-1]) == board
    assert boards[0] == boards[1] == boards[2]
