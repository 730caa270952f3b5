"""Images that a review leaves out or gives another label: what is used, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossfold.data.examination.folder import FolderReport, examine_folder, split_folder
from crossfold.data.grouping.rule import FileGroups, GroupRule
from crossfold.data.layouts.corrections import CorrectionFiles
from crossfold.data.splits import SplitSettings
from crossfold.errors import UserError

NUM_IMAGES = 6  # of each class
CLASSES = ("cat", "dog")
BOTH = CorrectionFiles("exclude.csv", "relabel.csv")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder per class; cat/1.png and cat/2.png are copies."""
    for label, name in enumerate(CLASSES):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(NUM_IMAGES):
            seed = 1 if (label, number) == (0, 2) else 10 * label + number
            pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    return tmp_path / "data"


def write(data: Path, exclude: str = "", relabel: str = "") -> None:
    (data / "exclude.csv").write_text(f"path\n{exclude}")
    (data / "relabel.csv").write_text(f"path,label\n{relabel}")


def check(data: Path, groups: GroupRule | None = None, skipped: float = 0) -> FolderReport:
    settings = SplitSettings(2, 0.25, max_skipped_fraction=skipped, groups=groups)
    return split_folder(examine_folder(data, groups=groups, corrections=BOTH), settings)


def refusal(data: Path) -> str:
    with pytest.raises(UserError) as caught:
        check(data)
    return str(caught.value)


def test_corrections_are_applied_and_counted(data: Path) -> None:
    (data / "cat" / "broken.png").write_bytes(b"")
    write(data, "cat/broken.png\ndog/0.png\n", "cat/0.png,dog\ncat/3.png,cat\n")
    report = check(data)
    labels = dict(zip(report.paths, report.labels, strict=True))
    assert report.counts == {"cat": 5, "dog": 6}
    assert labels["cat/0.png"] == CLASSES.index("dog") and labels["cat/3.png"] == 0
    assert not {"dog/0.png", "cat/broken.png", "exclude.csv", "relabel.csv"} & set(report.paths)
    facts = ["images excluded by data/exclude.csv: 2", "images relabelled by data/relabel.csv: 1"]
    assert report.facts().lines()[:2] == facts


def test_files_without_rows_change_nothing(data: Path) -> None:
    before = split_folder(examine_folder(data), SplitSettings(2, 0.25))
    write(data)
    after = check(data)
    assert (after.paths, after.labels, after.folds) == (before.paths, before.labels, before.folds)


def test_copies_with_different_labels_are_unusable(data: Path) -> None:
    write(data, relabel="cat/1.png,dog\n")
    assert "data/cat/1.png: the same image is in another class: cat/2.png" in refusal(data)
    assert check(data, skipped=0.2).unusable.keys() == {"cat/1.png", "cat/2.png"}
    write(data, relabel="cat/1.png,dog\ncat/2.png,dog\n")
    assert check(data).counts == {"cat": 4, "dog": 8}


def test_the_file_of_groups_may_list_excluded_images(data: Path) -> None:
    paths = sorted(path.relative_to(data).as_posix() for path in data.rglob("*.png"))
    rows = "".join(f"{path},{path}\n" for path in paths)
    (data / "groups.csv").write_text(f"path,group\n{rows}")
    write(data, exclude="dog/0.png\n")
    grouping = check(data, FileGroups(file="groups.csv")).grouping
    assert grouping.names.keys() == set(paths) - {"dog/0.png"}


def test_every_fault_is_listed_with_its_line(data: Path) -> None:
    write(
        data,
        "cat/0.png\ncat/0.png\ncat/no.png\n",
        "dog/1.png,cat\ndog/1.png,dog\nexclude.csv,cat\ncat/0.png,dog\ndog/2.png,Cat\ndog/3.png\n",
    )
    message = refusal(data)
    for fact in (
        "data/exclude.csv: 1 paths are no images of a class:\n  line 4: cat/no.png",
        "data/exclude.csv: 1 paths are listed again:\n  line 3: cat/0.png",
        "data/relabel.csv: 1 paths are no images of a class:\n  line 4: exclude.csv",
        "data/relabel.csv: 1 paths are listed again:\n  line 3: dog/1.png",
        "data/relabel.csv: 1 images are also in data/exclude.csv:\n  line 5: cat/0.png",
        "2 images have a label that is no class:\n  line 6: dog/2.png ('Cat')\n"
        "  line 7: dog/3.png ('')\nWrite one of the classes: cat, dog",
    ):
        assert fact in message


def test_files_that_are_missing_or_unreadable_are_refused(data: Path) -> None:
    message = refusal(data)
    for setting, file in BOTH.by_setting.items():
        assert f"data/ has no {file}, which params.yaml {setting} names" in message
    (data / "exclude.csv").write_text("file\ncat/0.png\n")
    (data / "relabel.csv").write_bytes("path,label\ncat/0.png,hündin\n".encode("latin-1"))
    message = refusal(data)
    assert "data/exclude.csv: the first line has no column path" in message
    assert "data/relabel.csv is not UTF-8" in message


def test_a_class_of_which_no_image_is_left_is_refused(data: Path) -> None:
    rows = [f"cat/{number}.png" for number in range(NUM_IMAGES)]
    write(data, "\n".join(rows[:3]), "".join(f"{path},dog\n" for path in rows[3:]))
    assert "no image is left of these classes" in refusal(data)
    assert "data.exclude and data.relabel:\n  cat\n" in refusal(data)


def test_a_given_test_split_of_which_no_image_is_left_is_refused(data: Path) -> None:
    for name in CLASSES:
        for split, numbers in {"train": range(1, NUM_IMAGES), "test": (0,)}.items():
            (data / split / name).mkdir(parents=True)
            for number in numbers:
                (data / name / f"{number}.png").rename(data / split / name / f"{number}.png")
        (data / name).rmdir()
    write(data, "test/cat/0.png\ntest/dog/0.png\n")
    assert "leaves no image of the given test split" in refusal(data)


def test_files_without_their_setting_are_explained(data: Path) -> None:
    write(data)
    with pytest.raises(UserError, match=r"data\.exclude or data\.relabel"):
        split_folder(examine_folder(data), SplitSettings(2, 0.25))
