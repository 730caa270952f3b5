from pathlib import Path

import pytest

from crossfold.errors import UserError
from crossfold.runners.local.last_run import find_last_run
from crossfold.runners.local.run_folders import FAILED, FINISHED, Run

OUTPUTS = {
    "fetch_data": "examples",
    "extract_features resnet18": "features",
    "train_fold 0": "predictions",
    "train_fold 1": "predictions",
    "aggregate_cv": "leaderboard",
}


def finished(root: Path, number: int, status: str = FINISHED, **outputs: str) -> Path:
    """Write a run and the outputs of its steps; return its folder."""
    folder = root / "runs" / f"run-{number}"
    run = Run(folder.name, folder, "abc", float(number), status)
    folder.mkdir(parents=True)
    for title, file in (OUTPUTS | outputs).items():
        step = root / "runs/pipeline" / str(number) / title
        step.mkdir(parents=True)
        (step / file).write_text("")
        run.step_done(title, step)
    run.save()
    return root / "runs/pipeline" / str(number)


def test_the_last_finished_run_has_the_features(tmp_path: Path) -> None:
    finished(tmp_path, 1)
    outputs = finished(tmp_path, 2)
    finished(tmp_path, 3, FAILED)
    found = find_last_run(tmp_path)
    assert found.id == "run-2"
    assert found.features.resolve() == outputs / "extract_features resnet18/features"
    assert [path.parent.name for path in found.predictions] == ["train_fold 0", "train_fold 1"]


def test_features_of_several_parts_are_the_joined_ones(tmp_path: Path) -> None:
    outputs = finished(tmp_path, 1, join_features="features")
    assert find_last_run(tmp_path).features.resolve() == outputs / "join_features/features"


def test_no_run_and_a_run_without_its_files_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="crossfold run --on docker"):
        find_last_run(tmp_path)
    outputs = finished(tmp_path, 1)
    (outputs / "extract_features resnet18/features").unlink()
    with pytest.raises(UserError, match="features of the last run is gone"):
        find_last_run(tmp_path)
