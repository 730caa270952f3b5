"""Data sets that are laid out in other ways than a folder per class."""

import csv
import shutil
from pathlib import Path

import pytest

from crossfold.data.examples import TEST, Examples

from .projects import Project, commit, write_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return write_project(tmp_path / "project")


def run(project: Project, *options: str) -> tuple[str, Examples]:
    """Run on the data as they are; return the output and the table of examples."""
    output = project.call("crossfold", "run", *options)
    return output, Examples(Path(project.runs()[-1]["steps"]["fetch_data"]) / "examples")


def scores_of_run(project: Project) -> dict[str, float]:
    """Read the scores of the last run, without what the machine's speed changes."""
    metrics = project.parent(project.runs()[-1]["id"]).data.metrics
    scores = {name: value for name, value in metrics.items() if "f1" in name or "loss" in name}
    assert len(scores) > 3
    return scores


def add(project: Project) -> None:
    project.call("dvc", "add", "data")
    commit(project)


def splits(table: Examples) -> dict[str, tuple[int, str, int]]:
    columns = (table.column(name, None) for name in ("content_hash", "label", "split", "fold"))
    return {content: tuple(rest) for content, *rest in zip(*columns, strict=True)}


def describe_by_csv(data: Path) -> None:
    """Move the images below another folder, and list them in labels.csv."""
    classes = sorted(path.name for path in data.iterdir())
    paths = sorted(path.relative_to(data) for path in data.rglob("*.bmp"))
    (data / "images").mkdir()
    for name in classes:
        shutil.move(data / name, data / "images" / name)
    (data / "images" / "notes.txt").write_text("no image")
    with (data / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("label", "path"))
        writer.writerows((path.parts[0], f"images/{path.as_posix()}") for path in reversed(paths))


@pytest.mark.slow
def test_a_csv_file_gives_the_same_splits_and_scores_as_folders(project: Project) -> None:
    _, by_folder = run(project)
    scores = scores_of_run(project)
    describe_by_csv(project.root / "data")
    add(project)
    _, by_csv = run(project, "--set", "data.labels=labels.csv")
    assert splits(by_csv) == splits(by_folder)
    assert scores_of_run(project) == scores
    assert by_csv.classes == by_folder.classes
    assert "1 file is not listed" in by_csv.facts.usage[0]


@pytest.mark.slow
def test_folders_named_like_splits_are_used_as_such(project: Project) -> None:
    data = project.root / "data"
    for number, path in enumerate(sorted(data.rglob("*.bmp"))):
        split = ("train", "val", "test", "train")[number % 4]
        (data / split / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.move(path, data / split / path.parent.name / path.name)
    for path in data.iterdir():
        if path.name.isdigit():
            path.rmdir()
    add(project)
    _, table = run(project)
    tested = {str(path) for path in table.column("path", TEST)}
    assert tested == {path.relative_to(data).as_posix() for path in data.glob("test/*/*")}
    assert table.classes == tuple("0123456789")
    assert "data/train and data/val are pooled" in table.facts.usage[0]
