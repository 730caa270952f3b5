import os
from pathlib import Path

import pytest

from crossfold.errors import UserError
from crossfold.predict.inputs import find_images


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with images in folders, and what a desktop leaves in them."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "cats/2.jpg",
        "cats/1.jpg",
        "cats/deep/er/3.png",
        "cats/.DS_Store",
        "cats/Thumbs.db",
        "cats/.hidden/4.jpg",
        "dogs/5.jpg",
        "[6].jpg",
        ".7.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


CATS = ["cats/1.jpg", "cats/2.jpg", "cats/deep/er/3.png"]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["dogs/5.jpg"], ["dogs/5.jpg"]),
        (["cats"], CATS),
        (["cats/"], CATS),
        (["cats/*.jpg"], CATS[:2]),
        (["cats/*"], CATS),
        (["**/*.png"], CATS[2:]),
        (["**"], ["[6].jpg", *CATS, "dogs/5.jpg"]),
        (["*s/*.jpg"], [*CATS[:2], "dogs/5.jpg"]),
        (["[6].jpg"], ["[6].jpg"]),
        ([".7.jpg"], [".7.jpg"]),
        (["dogs", "cats/2.jpg", "cats"], ["dogs/5.jpg", "cats/2.jpg", CATS[0], CATS[2]]),
        (["./dogs/5.jpg", "dogs/5.jpg", "dogs//5.jpg", "cats/../dogs"], ["./dogs/5.jpg"]),
    ],
)
def test_files_folders_and_globs(here: Path, names: list[str], found: list[str]) -> None:
    assert find_images(names) == found


def test_a_link_to_a_folder_around_it_is_passed_over(here: Path) -> None:
    (here / "cats/dogs").symlink_to("../dogs")
    (here / "dogs/cats").symlink_to("../cats")
    assert find_images(["cats"]) == [*CATS, "cats/dogs/5.jpg"]


def test_a_path_past_a_link_is_another_file_than_its_letters_say(here: Path) -> None:
    (here / "link").symlink_to("cats/deep")
    names = ["link/../2.jpg", "cats/2.jpg", "dogs/5.jpg"]
    assert find_images(names) == ["link/../2.jpg", "dogs/5.jpg"]


def test_every_name_without_an_image_is_said(here: Path) -> None:
    os.mkfifo(here / "pipe")
    names = ["cats", "empty", "no.jpg", "birds/*.jpg", "pipe"]
    with pytest.raises(UserError) as raised:
        find_images(names)
    named = [line.partition(":")[0].strip() for line in str(raised.value).splitlines()[1:]]
    assert named == ["empty", "no.jpg", "birds/*.jpg", "pipe"]
