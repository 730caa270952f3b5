from pathlib import Path

import pytest

from crossfold.data.grouping.names import Grouping, find_groups
from crossfold.data.grouping.rule import FOLDER, FileGroups, PatternGroups
from crossfold.data.image_source import FolderSource

PATHS = ["cat/p7/1.jpg", "cat/p8/x/2.jpg", "dog/p7/1.jpg"]
FILE = FileGroups(file="groups.csv")


def said(grouping: Grouping) -> str:
    return "\n".join(map(str, grouping.faults))


def from_csv(folder: Path, content: str | bytes) -> Grouping:
    data = content.encode() if isinstance(content, str) else content
    (folder / "groups.csv").write_bytes(data)
    return find_groups(FILE, FolderSource(folder), PATHS)


def test_the_folder_below_the_class_is_the_group_in_every_class(tmp_path: Path) -> None:
    grouping = find_groups(FOLDER, FolderSource(tmp_path), PATHS)
    assert list(grouping.names.values()) == ["p7", "p8", "p7"]
    assert not grouping.faults
    loose = find_groups(FOLDER, FolderSource(tmp_path / "data"), [*PATHS, "dog/3.jpg"])
    assert "1 of 4 images" in said(loose) and "data/dog/3.jpg" in said(loose)


def test_a_pattern_is_searched_in_the_name_and_not_in_the_folders(tmp_path: Path) -> None:
    rule = PatternGroups(pattern=r"(?P<patient>p\d+)_")
    paths = ["p1_/a_p20_1.png", "p1_/p3_.png"]
    assert find_groups(rule, FolderSource(tmp_path), paths).names == dict(
        zip(paths, ["p20", "p3"], strict=True)
    )
    many = [f"cat/{n}.png" for n in range(60)]
    message = said(find_groups(rule, FolderSource(tmp_path / "data"), [*paths, *many]))
    assert "60 of 62 file names" in message and "data/cat/0.png" in message and "more" in message


def test_an_optional_or_empty_group_that_finds_nothing_is_no_match(tmp_path: Path) -> None:
    for pattern in ("(?P<g>p)?.", "(?P<g>p*)"):
        grouping = find_groups(PatternGroups(pattern=pattern), FolderSource(tmp_path), ["a/1.png"])
        assert not grouping.names and grouping.faults


@pytest.mark.parametrize(
    "content",
    [
        "path,group\ncat/p7/1.jpg,7\ncat/p8/x/2.jpg,8\ndog/p7/1.jpg,7\n",
        '\ufeffgroup , a,path\r\n7 ,x,"cat/p7/1.jpg"\r\n8,y,cat/p8/x/2.jpg\r\n7,,dog/p7/1.jpg\r\n',
    ],
)
def test_a_csv_file_gives_the_groups(tmp_path: Path, content: str) -> None:
    grouping = from_csv(tmp_path, content)
    assert said(grouping) == ""
    assert grouping.names == dict(zip(PATHS, ["7", "8", "7"], strict=True))


def test_every_fault_of_a_csv_file_is_listed(tmp_path: Path) -> None:
    lines = ["path,group", "cat/p7/1.jpg,7", "cat/p7/1.jpg,8", "cat/no.jpg,7", "dog/p7/1.jpg"]
    message = said(from_csv(tmp_path, "\n".join(lines)))
    for fact in (
        "1 of 3 images are not in",
        "cat/p8/x/2.jpg",
        "line 3: cat/p7/1.jpg",
        "line 4: cat/no.jpg",
        "1 images have no group:\n  line 5: dog/p7/1.jpg",
    ):
        assert fact in message


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ("", "no column path and no column group"),
        ("path;group\na;b\n", "no column path"),
        ("path,patient\ncat/1.jpg,7\n", "no column group"),
        ("path,group\nm\u00fcll/1.jpg,7\n".encode("latin-1"), "is not UTF-8 (byte 12)"),
        ('path,group\n"cat/1.jpg,7\n', "unexpected end of data"),
    ],
)
def test_a_file_that_is_no_such_csv_is_refused(
    tmp_path: Path, content: str | bytes, fact: str
) -> None:
    message = said(from_csv(tmp_path, content))
    assert fact in message and "groups.csv" in message
    assert len(message) < 300  # it does not list every image besides
