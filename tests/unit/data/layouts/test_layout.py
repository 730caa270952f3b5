"""Folders as people have them: what is found wrong, and that all of it is found at once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from crossfold.data.examination.folder import FolderReport, examine_folder, split_folder
from crossfold.data.layouts.layout import ignored_files, read_layout
from crossfold.data.layouts.listing import escaped, is_system_file, list_files, list_paths
from crossfold.data.splits import SplitSettings
from crossfold.errors import UserError

LATIN_1 = os.fsdecode(b"caf\xe9.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of four images each."""
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(4):
            color = (10 * index, 100 * number, 0)
            Image.new("RGB", (4, 4), color).save(tmp_path / "data" / name / f"{index}.png")
    return tmp_path / "data"


def split(report: FolderReport) -> FolderReport:
    return split_folder(report, SplitSettings(num_folds=2, test_fraction=0.25))


def faults(folder: Path) -> str:
    return "\n".join(map(str, read_layout(folder).faults))


def notes(folder: Path) -> str:
    return "\n".join(map(str, read_layout(folder).notes))


def test_a_good_folder_has_nothing_to_say(folder: Path) -> None:
    layout = read_layout(folder)
    assert list(layout.files) == ["cat", "dog"]
    assert layout.files["cat"] == [f"cat/{index}.png" for index in range(4)]
    assert (layout.faults, layout.notes, layout.ignored) == ((), (), ())


def test_all_is_found_in_one_examination(folder: Path) -> None:
    (folder / "labels.csv").write_text("cat,0.png")
    (folder / "fox").mkdir()
    (folder / "emu").mkdir()
    Image.new("RGB", (4, 4), "white").save(folder / "emu" / "0.png")
    (folder / "dog" / "broken.png").write_bytes(b"?")
    (folder / "cat" / LATIN_1).write_bytes(b"")
    report = examine_folder(folder)
    with pytest.raises(UserError) as caught:
        split(report)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert {"data/labels.csv", "data/fox", "data/cat/caf\\xe9.png: not UTF-8"} <= set(lines)
    assert "data/dog/broken.png: corrupt, or not an image in a known format" in lines
    assert "class 'emu': 1 images, 1 different" in lines
    assert not any("class 'fox'" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "shown", "reason"),
    [
        (LATIN_1, r"caf\xe9.png", "not UTF-8"),
        ("a\x1b[31mb.png", r"a\x1b[31mb.png", "control characters"),
        ("a\nb.png", r"a\nb.png", "control characters"),
    ],
)
def test_a_name_that_programs_fail_on_is_refused_and_written_harmlessly(
    folder: Path, name: str, shown: str, reason: str
) -> None:
    (folder / "cat" / name).write_bytes(b"")
    (folder / name).mkdir()
    (folder / name / "0.png").write_bytes(b"")
    said = faults(folder)
    assert f"  data/cat/{shown}: {reason}\n" in said
    assert f"  data/{shown}: {reason}\n" in said
    assert said.encode()
    assert len(read_layout(folder).files["cat"]) == 4
    assert list(read_layout(folder).files) == ["cat", "dog"]


def test_letters_of_all_scripts_and_joined_emoji_are_fine(folder: Path) -> None:
    name = "Zoë 猫 \U0001f469\u200d\U0001f52c\xa0.png"
    (folder / "cat" / name).write_bytes(b"")
    assert faults(folder) == ""
    assert (
        escaped("Zoë 猫 \U0001f469\u200d\U0001f52c.png") == "Zoë 猫 \U0001f469\u200d\U0001f52c.png"
    )


@pytest.mark.parametrize("names", [("train", "val"), ("Train", "test", "valid"), ("training",)])
def test_folders_named_like_splits_are_used_as_splits(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for split_name in names:
        for name in ("cat", "dog"):
            (tmp_path / "data" / split_name / name).mkdir(parents=True)
            (tmp_path / "data" / split_name / name / "0.png").write_bytes(b"")
    layout = read_layout(tmp_path / "data")
    assert (layout.faults, layout.notes) == ((), ())
    assert list(layout.files) == ["cat", "dog"]
    assert layout.files["cat"] == sorted(f"{split_name}/cat/0.png" for split_name in names)
    in_test = {"test/cat/0.png", "test/dog/0.png"}
    assert layout.given_test == (in_test if "test" in names else set())
    (usage,) = layout.usage
    assert "cross-validation makes its own folds" in usage
    assert ("data/test is the test split" if "test" in names else "is held out as usual") in usage
    (tmp_path / "data" / names[0] / "9.png").write_bytes(b"")
    assert f"data/{names[0]}/9.png" in faults(tmp_path / "data")


def test_split_folders_without_classes_are_refused(folder: Path) -> None:
    shutil.move(folder / "cat", folder / "train")
    shutil.move(folder / "dog", folder / "val")
    assert "splits, not classes" in faults(folder)
    assert "data/train/<class>/" in faults(folder)


def test_a_class_may_be_named_like_a_split_beside_others(folder: Path) -> None:
    shutil.move(folder / "dog", folder / "train")
    assert faults(folder) == notes(folder) == ""


def test_the_same_folders_in_every_class_are_noted(folder: Path) -> None:
    for name in ("cat", "dog"):
        for index in range(4):
            below = folder / name / f"site{index % 2}"
            below.mkdir(exist_ok=True)
            shutil.move(folder / name / f"{index}.png", below)
    assert "site0, site1" in notes(folder)
    assert faults(folder) == ""
    Image.new("RGB", (4, 4), "white").save(folder / "cat" / "4.png")
    assert notes(folder) == ""


def test_names_that_a_mac_or_windows_takes_for_one_are_noted(folder: Path) -> None:
    (folder / "Dog").mkdir()
    (folder / "Dog" / "0.png").write_bytes(b"")
    for name in ("A.png", "a.PNG", "caf\xe9.png", "cafe\u0301.png"):
        (folder / "cat" / name).write_bytes(b"")
    lines = [line.strip() for line in notes(folder).splitlines()]
    assert "data/Dog and data/dog" in lines
    assert "data/cat/A.png and data/cat/a.PNG" in lines
    assert "data/cat/cafe\u0301.png and data/cat/caf\xe9.png (Unicode form)" in lines
    assert not any("0.png" in line for line in lines)


def test_files_of_operating_systems_are_ignored_and_counted(folder: Path) -> None:
    for name in ("Thumbs.db", "desktop.ini", "Desktop.ini", ".DS_Store", "._0.png", "Icon\r"):
        (folder / "cat" / name).write_bytes(b"?")
    (folder / "desktop.ini").write_bytes(b"?")
    (folder / "__MACOSX" / "cat").mkdir(parents=True)
    (folder / "__MACOSX" / "cat" / "0.png").write_bytes(b"?")
    report = examine_folder(folder)
    assert (report.classes, report.unusable, report.faults) == (("cat", "dog"), {}, ())
    assert len(report.ignored) == 8
    assert ignored_files(report.ignored).startswith("desktop.ini (2), ")
    assert any(
        line.startswith("ignored: desktop.ini (2)") for line in split(report).facts().lines()
    )
    assert not is_system_file("icon.png")


def test_a_folder_that_cannot_be_read_is_refused(folder: Path) -> None:
    (folder / "dog" / "more").mkdir()
    (folder / "emu").mkdir()
    program = (
        "import sys; from pathlib import Path;"
        "from crossfold.data.layouts.layout import read_layout;"
        "print(*read_layout(Path(sys.argv[1])).faults)"
    )
    command = [sys.executable, "-c", program, str(folder)]
    if os.geteuid() == 0:  # who may read everything, without that right
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    for path in (folder / "dog" / "more", folder / "emu"):
        path.chmod(0)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    finally:
        for path in (folder / "dog" / "more", folder / "emu"):
            path.chmod(0o755)
    assert "  data/dog/more\n  data/emu\n" in done.stdout
    assert "class folders without images" not in done.stdout


def test_a_listing_is_sorted_and_follows_links_once(folder: Path) -> None:
    (folder / "dog" / "loop").symlink_to("..")
    (folder / "dog" / "cats").symlink_to("../cat")
    files = list_files(folder).files
    assert files == sorted(files)
    assert "dog/cats/0.png" in files
    assert not any("loop" in path for path in files)


def test_a_list_of_paths_is_read_as_the_folder_that_has_them(folder: Path) -> None:
    shutil.copytree(folder / "cat", folder / "cat" / "@eaDir" / "deep")
    for path in ("cat/.DS_Store", "emu/Thumbs.db", ".git/config", "labels.csv"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).touch()
    paths = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    assert list_paths(paths) == list_files(folder)
