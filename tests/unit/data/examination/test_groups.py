from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossfold.data.examination.folder import FolderReport, examine_folder, split_folder
from crossfold.data.grouping.rule import FOLDER
from crossfold.data.splits import SplitSettings, assign
from crossfold.errors import UserError

SETTINGS = SplitSettings(num_folds=2, test_fraction=0.25, seed=3)


def write(folder: Path, *paths: str) -> None:
    """Write a different image at each path."""
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([*path.encode()])
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(target)


def places(report: FolderReport) -> dict[str, int]:
    return dict(zip(report.paths, report.folds, strict=True))


def test_a_group_of_two_classes_is_on_one_side_and_named(tmp_path: Path) -> None:
    people = [
        f"{label}/{name}/{n}.png" for label in ("ill", "well") for name in "abcd" for n in "12"
    ]
    write(tmp_path, *people, "ill/d/3.png")
    report = split_folder(examine_folder(tmp_path, groups=FOLDER), SETTINGS)
    sides = {(path.split("/")[1], fold) for path, fold in places(report).items()}
    assert len(sides) == 4 and {fold for _, fold in sides} == {-1, 0, 1}
    facts = report.facts().groups
    assert facts is not None
    assert (facts.number, facts.named, facts.largest, facts.largest_size) == (4, 4, "d", 5)
    assert not report.notes  # the same folders in every class are what was asked for


def test_copies_that_join_too_many_groups_are_told(tmp_path: Path) -> None:
    write(tmp_path, *(f"ill/{name}/{n}.png" for name in "abc" for n in "12"))
    write(tmp_path, *(f"well/{name}/{n}.png" for name in "efg" for n in "12"))
    (tmp_path / "ill/b/copy.png").write_bytes((tmp_path / "ill/a/1.png").read_bytes())
    with pytest.raises(UserError) as caught:
        split_folder(examine_folder(tmp_path, groups=FOLDER), SETTINGS)
    message = str(caught.value)
    assert "a class needs 3 groups" in message and "'well'" not in message
    assert "class 'ill': 7 images in 2 groups, which copies of images join from 3" in message


def test_a_class_without_usable_images_has_no_groups(tmp_path: Path) -> None:
    write(tmp_path, *(f"ill/{name}/{n}.png" for name in "abc" for n in "12"))
    (tmp_path / "well/d").mkdir(parents=True)
    (tmp_path / "well/d/broken.png").write_bytes(b"")
    settings = replace(SETTINGS, max_skipped_fraction=0.5)
    with pytest.raises(UserError, match="class 'well': 0 images in 0 groups"):
        split_folder(examine_folder(tmp_path, groups=FOLDER), settings)


def test_images_without_a_group_are_listed_with_the_other_problems(tmp_path: Path) -> None:
    write(tmp_path, "ill/a/1.png", "ill/2.png", "well/3.png")
    (tmp_path / "well/broken.png").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        split_folder(examine_folder(tmp_path, groups=FOLDER), SETTINGS)
    message = str(caught.value)
    assert "3 of 4 images are in no folder of a group" in message
    assert "1 of 4 images cannot be used" in message


def test_without_groups_the_splits_are_those_by_content_alone(tmp_path: Path) -> None:
    write(tmp_path, *(f"{label}/{name}/{n}.png" for label in "xy" for name in "ab" for n in "1234"))
    report = split_folder(examine_folder(tmp_path), SETTINGS)
    expected = assign(report.labels, report.content_hashes, SETTINGS)
    assert (list(report.splits), list(report.folds)) == expected
    assert report.facts().groups is None
