"""The page to review labels in a real browser. Needs Debian's package `chromium`."""

import csv
import io
import json
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from PIL import Image

from crossfold.diagnosis.labels.label_errors import LabelIssue
from crossfold.review.decisions import read_decisions
from crossfold.review.page import render
from crossfold.settings import DataSettings

from .chromium import DESKTOP, PHONE, measured, screenshot, visit

PARAMS = Path(__file__).parents[2] / "params.yaml"
LISTED = ("cat/0.png", "cat/1.png", 'cat/a "b", c.png', "cat/3.png")
READ = (
    "document.title = JSON.stringify(['relabel', 'exclude'].map("
    "id => page.getElementById(id).href.split(',').slice(1).join(',')));"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four images to review, one of them excluded earlier, beside decisions on two others."""
    data = tmp_path_factory.mktemp("project") / "data"
    for name in ("cat", "dog", "emu"):
        (data / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (9, 9), (50 * number, 0, 0)).save(data / name / f"{number}.png")
    (data / "cat" / "2.png").rename(data / LISTED[2])
    (data / "exclude.csv").write_text("path\ncat/3.png\ndog/3.png\n")
    (data / "relabel.csv").write_text("path,label\ndog/2.png,cat\n")
    issues = tuple(
        LabelIssue(
            path=path,
            label="cat",
            suggested="dog",
            label_probability=0.01,
            suggested_probability=0.9,
        )
        for path in LISTED
    )
    settings = DataSettings(**yaml.safe_load(PARAMS.read_text())["data"])
    return render(issues, read_decisions(data, settings))


def files(page: str, folder: Path, script: str = "") -> list[list[list[str]]]:
    """The rows of relabel.csv and exclude.csv as the links offer them after a script."""
    links = json.loads(measured(page, folder, DESKTOP, script + READ))
    return [list(csv.reader(io.StringIO(unquote(text)))) for text in links]


def click(number: int, value: str) -> str:
    return f"page.querySelectorAll('fieldset')[{number}].querySelector('[value={value}]').click();"


def test_the_page_runs_its_script_and_loads_nothing(page: str, tmp_path: Path) -> None:
    seen = visit(page, tmp_path)
    assert (seen.console, seen.requests) == ([], [])
    links = [a for tag, a in seen.dom.elements if tag == "a" and "download" in a]
    assert [link["download"] for link in links] == ["relabel.csv", "exclude.csv"]
    assert all(str(link["href"]).startswith("data:text/csv") for link in links)


def test_without_a_decision_the_files_hold_the_earlier_ones(page: str, tmp_path: Path) -> None:
    relabel, exclude = files(page, tmp_path)
    assert relabel == [["path", "label"], ["dog/2.png", "cat"]]
    assert exclude == [["path"], ["cat/3.png"], ["dog/3.png"]]


def test_decisions_are_in_the_files(page: str, tmp_path: Path) -> None:
    select = "const other = page.querySelectorAll('select')[1]; other.value = 'emu';"
    changed = "other.dispatchEvent(new Event('change', {bubbles: true}));"
    ticks = click(0, "exclude") + select + changed + click(2, "suggested") + click(3, "keep")
    relabel, exclude = files(page, tmp_path, ticks)
    assert relabel == [
        ["path", "label"],
        ["cat/1.png", "emu"],
        [LISTED[2], "dog"],
        ["dog/2.png", "cat"],
    ]
    assert exclude == [["path"], ["cat/0.png"], ["dog/3.png"]]


@pytest.mark.parametrize("width", [PHONE[0], DESKTOP[0]])
def test_page_is_no_wider_than_the_screen(page: str, tmp_path: Path, width: int) -> None:
    needed = "document.title = page.documentElement.scrollWidth"
    assert width - 20 <= int(measured(page, tmp_path, (width, 2000), needed)) <= width


def test_page_follows_the_colour_scheme(page: str, tmp_path: Path) -> None:
    light = screenshot(page, tmp_path, DESKTOP)
    dark = screenshot(page, tmp_path, DESKTOP, "--force-dark-mode")
    assert tuple(light[1, 1]) == (0xFF, 0xFF, 0xFF)
    assert tuple(dark[1, 1]) == (0x0D, 0x11, 0x17)
