"""Data sets with given labels, groups and splits: what is used, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossfold.data.examination.folder import FolderReport, examine_folder, split_folder
from crossfold.data.grouping.rule import FOLDER, FileGroups, PatternGroups
from crossfold.data.splits import TEST, SplitSettings
from crossfold.errors import UserError

NUM_IMAGES = 8  # of each class
CLASSES = ("cat", "dog")


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images in one folder, which nothing describes yet."""
    for number in range(2 * NUM_IMAGES):
        write(tmp_path / "data" / "images" / f"{number:02}.png", number)
    return tmp_path / "data"


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    """Images in train/, val/ and test/."""
    for number in range(2 * NUM_IMAGES):
        split = ("train", "train", "val", "test")[number % 4]
        name = CLASSES[number // NUM_IMAGES]
        write(tmp_path / "data" / split / name / f"p{number}" / f"{number:02}.png", number)
    return tmp_path / "data"


def describe(data: Path, *more: str, columns: str = "path,label", **cells: Any) -> None:
    """Write labels.csv with a line for each image; `cells` has functions of its number."""
    lines = [",".join([columns, *cells])]
    for number in range(2 * NUM_IMAGES):
        own = [str(cell(number)) for cell in cells.values()]
        label = CLASSES[number // NUM_IMAGES]
        lines.append(",".join([f"images/{number:02}.png", label, *own]))
    (data / "labels.csv").write_text("\n".join([*lines, *more]))


def check(data: Path, *, labels: str | None = "labels.csv", **changes: Any) -> FolderReport:
    settings = SplitSettings(**{"num_folds": 2, "test_fraction": 0.25} | changes)
    return split_folder(examine_folder(data, groups=settings.groups, labels=labels), settings)


def refusal(data: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        check(data, **changes)
    return str(caught.value)


def in_test(report: FolderReport) -> set[str]:
    return {p for p, split in zip(report.paths, report.splits, strict=True) if split == TEST}


def test_a_csv_file_gives_labels_and_files_that_it_does_not_list_are_counted(data: Path) -> None:
    write(data / "images" / "extra.png", 99)
    describe(data)
    report = check(data)
    assert report.counts == dict.fromkeys(CLASSES, NUM_IMAGES)
    assert len(in_test(report)) == 4
    assert report.facts().lines() == [
        "labels are the column label of data/labels.csv; 1 file is not listed and left out"
    ]


def test_the_splits_depend_on_the_images_and_not_on_the_layout(data: Path, tmp_path: Path) -> None:
    for number in range(2 * NUM_IMAGES):
        write(tmp_path / "other" / CLASSES[number // NUM_IMAGES] / f"{99 - number}.png", number)
    describe(data)
    described, folders = check(data), check(tmp_path / "other", labels=None)
    folds_of = [
        dict(zip(report.content_hashes, zip(report.labels, report.folds, strict=True), strict=True))
        for report in (described, folders)
    ]
    assert folds_of[0] == folds_of[1]


def test_the_columns_group_and_split_are_used(data: Path) -> None:
    describe(
        data,
        group=lambda number: f"plant {number // 2}",
        split=lambda number: ("Test", "train", "valid", "train")[number // 2 % 4],
    )
    report = check(data)
    assert in_test(report) == {f"images/{number:02}.png" for number in (0, 1, 8, 9)}
    assert report.grouping.names["images/03.png"] == "plant 1"
    assert len(set(zip(report.groups, report.folds, strict=True))) == NUM_IMAGES
    assert report.usage[1] == (
        "splits by the column split: train and valid are pooled: cross-validation "
        "makes its own folds; Test is the test split (data.test_fraction is not used)"
    )


def test_every_fault_of_the_csv_file_is_listed_with_its_line(data: Path) -> None:
    def split(number: int) -> str:
        return "tset" if number == 3 else "train"

    describe(data, "images/00.png,cat,train", "images/no.png,cat,train", split=split)
    text = (data / "labels.csv").read_text()
    (data / "labels.csv").write_text(text.replace("images/01.png,cat", "images/01.png, "))
    message = refusal(data)
    for fact in (
        "1 paths are no files of the folder:\n  line 19: images/no.png",
        "1 paths are listed again:\n  line 18: images/00.png",
        "1 images have no label:\n  line 3: images/01.png",
        "1 images have an unknown split:\n  line 5: images/03.png ('tset')",
    ):
        assert fact in message


@pytest.mark.parametrize(
    ("groups", "fact"),
    [
        (PatternGroups(pattern="(?P<g>.)"), "groups are given twice"),
        (FileGroups(file="groups.csv"), "data/ has no groups.csv"),
    ],
)
def test_groups_are_given_once(data: Path, groups: Any, fact: str) -> None:
    describe(data, group=str)
    assert fact in refusal(data, groups=groups)


def test_without_class_folders_there_are_no_group_folders(data: Path) -> None:
    describe(data)
    assert "with data.labels the class is no folder" in refusal(data, groups=FOLDER)


def test_a_missing_or_wrong_csv_file_is_refused(data: Path) -> None:
    assert "data/ has no labels.csv, which params.yaml data.labels names" in refusal(data)
    (data / "labels.csv").write_text("file,label\n")
    assert "data/labels.csv: the first line has no column path" in refusal(data)
    (data / "labels.csv").write_text("path,label\n")
    assert "data/labels.csv lists no images" in refusal(data)
    describe(data)
    assert "If labels.csv lists the labels, set data.labels" in refusal(data, labels=None)


def test_labels_that_differ_by_case_are_noted(data: Path) -> None:
    describe(data)
    text = (data / "labels.csv").read_text()
    (data / "labels.csv").write_text(text.replace("00.png,cat", "00.png,Cat"))
    assert "Cat and cat" in str(examine_folder(data, labels="labels.csv").notes[0])


def test_split_folders_give_the_test_split_and_their_groups(divided: Path) -> None:
    report = check(divided, labels=None, groups=FOLDER)
    assert report.classes == CLASSES
    assert in_test(report) == {path for path in report.paths if path.startswith("test/")}
    assert report.grouping.names["val/cat/p2/02.png"] == "p2"
    assert set(report.folds) == {-1, 0, 1}


def test_without_a_test_folder_the_pool_is_held_out_from_as_usual(divided: Path) -> None:
    (divided / "test").rename(divided / "dev")
    report = check(divided, labels=None)
    assert len(in_test(report)) == 4 and report.given_test == frozenset()


def test_copies_in_test_and_training_are_a_leak(divided: Path) -> None:
    write(divided / "test" / "cat" / "copy.bmp", 0)
    message = refusal(divided, labels=None)
    assert "leak: 1 of 5 test images are copies of training images" in message
    assert "data/test/cat/copy.bmp: data/train/cat/p0/00.png" in message


def test_groups_in_test_and_training_are_a_leak(divided: Path) -> None:
    write(divided / "test" / "dog" / "p0" / "50.png", 50)
    message = refusal(divided, labels=None, groups=FOLDER)
    assert "leak: 1 groups are" in message
    assert "p0: 1 training images, 1 test images" in message
    assert len(check(divided, labels=None).paths) == 17


def test_near_duplicates_in_test_and_training_are_a_leak_if_they_are_tied(divided: Path) -> None:
    for split, side in (("train", 90), ("test", 120)):
        coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
        image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        image.save(divided / split / "cat" / "look.png")
    report = check(divided, labels=None)
    assert report.count_pairs().leaks == 1
    message = refusal(divided, labels=None, tie_near_duplicates=True)
    assert "data/test/cat/look.png: data/train/cat/look.png" in message


@pytest.mark.parametrize(
    ("split", "fact"),
    [
        ("train", "classes without test images:\n  class 'emu': 3 training images, 0 test images"),
        ("test", "that training lacks:\n  class 'emu': 0 training images, 3 test images"),
    ],
)
def test_a_class_on_one_side_only_is_refused(divided: Path, split: str, fact: str) -> None:
    for number in range(3):
        write(divided / split / "emu" / f"{number}.png", 100 + number)
    message = refusal(divided, labels=None)
    assert fact in message and "'cat'" not in message


def test_too_few_images_for_the_folds_are_refused(divided: Path) -> None:
    message = refusal(divided, labels=None, num_folds=7)
    assert "class 'cat': 6 training images, 2 test images" in message
    assert "holdout" not in message
