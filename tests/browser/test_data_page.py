"""The page on the data in a real browser. Needs Debian's package `chromium`."""

from pathlib import Path

import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_image

from crossfold.data.examination.folder import examine_folder, split_folder
from crossfold.data.examination.page import render
from crossfold.data.image_source import FolderSource
from crossfold.data.splits import SplitSettings

from .chromium import DESKTOP, PHONE, measured, screenshot, visit

HOSTILE = "<img src=x onerror=alert(1)>"
SECTIONS = [
    "headline",
    "classes",
    "samples",
    "unusable",
    "remarks",
    "copies",
    "near-duplicates",
    "sizes",
    "reading",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Windows of a photograph in two classes, one with a hostile name, and some findings."""
    folder = tmp_path_factory.mktemp("data")
    whole = Image.fromarray(load_sample_image("china.jpg"))
    for label, name in enumerate(("temple", HOSTILE)):
        (folder / name).mkdir()
        for index in range(12):
            left, top = 60 * (index % 6) + 30 * label, 130 + 80 * (index // 6)
            image = whole.crop((left, top, left + 160, top + 120))
            image.save(folder / name / f"{index:02}.jpg", quality=90)
    image.convert("L").save(folder / HOSTILE / "grey.png")
    image.save(folder / HOSTILE / "copy.bmp")
    image.save(folder / HOSTILE / "copy.tif")
    ImageEnhance.Brightness(image).enhance(0.8).save(folder / "temple" / "darker.png")
    Image.open(folder / "temple" / "00.jpg").save(folder / "temple" / "wrong.jpg", "PNG")
    (folder / HOSTILE / f"{HOSTILE}.jpg").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    split = SplitSettings(num_folds=3, test_fraction=0.2, max_skipped_fraction=0.1)
    return render(split_folder(examine_folder(folder), split), FolderSource(folder))


def test_page_is_whole_silent_and_loads_nothing(page: str, tmp_path: Path) -> None:
    seen = visit(page, tmp_path)
    dom = seen.dom
    assert (seen.console, seen.requests) == ([], [])
    assert [a["id"] for tag, a in dom.elements if tag == "section"] == SECTIONS
    links = [a["href"] for tag, a in dom.elements if tag == "a"]
    assert {str(link).removeprefix("#") for link in links} == set(SECTIONS) - {"headline"}
    assert not [tag for tag, _ in dom.elements if tag == "script"]


def test_page_of_a_folder_that_cannot_be_trained_on_is_whole(folder: Path, tmp_path: Path) -> None:
    seen = visit(
        render(examine_folder(folder), FolderSource(folder), f"1 image: {HOSTILE}"), tmp_path
    )
    assert (seen.console, seen.requests) == ([], [])
    assert [a["id"] for tag, a in seen.dom.elements if tag == "section"] == SECTIONS
    assert f"1 image: {HOSTILE}" in seen.dom.text


def test_every_picture_is_shown_and_says_what_it_is(page: str, tmp_path: Path) -> None:
    dom = visit(page, tmp_path).dom
    pictures = [attributes for tag, attributes in dom.elements if tag == "img"]
    assert len(pictures) > 15
    assert all(str(picture["src"]).startswith("data:image/") for picture in pictures)
    assert {"temple/darker.png", f"{HOSTILE}/grey.png"} <= {str(p["alt"]) for p in pictures}
    widths = "document.title = Math.min(...[...page.images].map(image => image.naturalWidth))"
    assert int(measured(page, tmp_path, DESKTOP, widths)) >= 80


def test_a_hostile_name_stays_text(page: str, tmp_path: Path) -> None:
    dom = visit(page, tmp_path).dom
    assert not [a for tag, a in dom.elements if tag == "img" and "onerror" in a]
    assert f"{HOSTILE}/{HOSTILE}.jpg: the file is empty" in dom.text


@pytest.mark.parametrize("width", [PHONE[0], DESKTOP[0]])
def test_page_is_no_wider_than_the_screen(page: str, tmp_path: Path, width: int) -> None:
    needed = "document.title = page.documentElement.scrollWidth"
    assert width - 20 <= int(measured(page, tmp_path, (width, 2000), needed)) <= width


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_page_follows_the_colour_scheme(page: str, tmp_path: Path, size: tuple[int, int]) -> None:
    light = screenshot(page, tmp_path, size)
    dark = screenshot(page, tmp_path, size, "--force-dark-mode")
    assert light.shape == dark.shape == (size[1], size[0], 3)
    assert tuple(light[1, 1]) == (0xFF, 0xFF, 0xFF)
    assert tuple(dark[1, 1]) == (0x0D, 0x11, 0x17)
