"""The page on the data in a real browser. Needs Debian's package `chromium`."""

import json
import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_image

from crossfold.data_page import render
from crossfold.folder import check_folder, examine_folder

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
BROWSER_ITSELF = "not an origin"  # so Chromium's log names what no page asked for
PHONE, DESKTOP = (390, 2000), (1000, 2000)


class Dom(HTMLParser):
    """What a browser made of a page: its elements and their text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def chromium(page: Path, folder: Path, size: tuple[int, int], *flags: str) -> tuple[str, str]:
    """Open a page in a new profile; return standard output and standard error."""
    program = shutil.which("chromium")
    assert program, "chromium is not installed: apt-get install chromium"
    done = subprocess.run(
        [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--no-first-run",
            # The browser's own services (time, updates, accounts) ask the network otherwise.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={size[0]},{size[1]}",
            "--enable-logging=stderr",
            "--v=0",
            *flags,
            page.as_uri(),
        ],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )
    return done.stdout, done.stderr


def visit(html: str, folder: Path) -> tuple[Dom, list[str], list[str]]:
    """The page as the browser has it, the lines of its console, and what it asked a network for."""
    page, net_log = folder / "page.html", folder / "net.json"
    page.write_text(html, encoding="utf-8")
    dom, log = chromium(page, folder, DESKTOP, "--dump-dom", f"--log-net-log={net_log}")
    events = json.loads(net_log.read_text(encoding="utf-8"))["events"]
    requests = [event["params"] for event in events if "initiator" in event.get("params", {})]
    urls = {request["url"] for request in requests if request["initiator"] != BROWSER_ITSELF}
    asked = sorted(url for url in urls if url.startswith(("http:", "https:")))
    return Dom(dom), re.findall(r":CONSOLE[:(].*", log), asked


def measured(html: str, folder: Path, width: int, script: str) -> str:
    """What a script finds in a page that is `width` pixels wide."""
    # In a frame, as a window is at least 500 pixels wide.
    frame = f'<iframe width="{width}" height="2000" srcdoc="{escape(html)}"></iframe>'
    run = f"<script>onload = () => {{ const page = frames[0].document; {script} }}</script>"
    (folder / "frame.html").write_text(f"<title></title>{run}{frame}", encoding="utf-8")
    dom, _ = chromium(folder / "frame.html", folder, DESKTOP, "--dump-dom")
    title = re.search(r"<title>(.*?)</title>", dom)
    assert title
    return title[1]


def screenshot(html: str, folder: Path, size: tuple[int, int], *flags: str) -> np.ndarray:
    page, picture = folder / "page.html", folder / "page.png"
    page.write_text(html, encoding="utf-8")
    chromium(page, folder, size, f"--screenshot={picture}", *flags)
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB"))


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
    report = check_folder(folder, num_folds=3, test_fraction=0.2, max_skipped_fraction=0.1)
    return render(report, folder)


def test_page_is_whole_silent_and_loads_nothing(page: str, tmp_path: Path) -> None:
    dom, console, requests = visit(page, tmp_path)
    assert (console, requests) == ([], [])
    assert [a["id"] for tag, a in dom.elements if tag == "section"] == SECTIONS
    links = [a["href"] for tag, a in dom.elements if tag == "a"]
    assert {str(link).removeprefix("#") for link in links} == set(SECTIONS) - {"headline"}
    assert not [tag for tag, _ in dom.elements if tag == "script"]


def test_page_of_a_folder_that_cannot_be_trained_on_is_whole(folder: Path, tmp_path: Path) -> None:
    dom, console, requests = visit(
        render(examine_folder(folder), folder, f"1 image: {HOSTILE}"), tmp_path
    )
    assert (console, requests) == ([], [])
    assert [a["id"] for tag, a in dom.elements if tag == "section"] == SECTIONS
    assert f"1 image: {HOSTILE}" in dom.text


def test_every_picture_is_shown_and_says_what_it_is(page: str, tmp_path: Path) -> None:
    dom, _, _ = visit(page, tmp_path)
    pictures = [attributes for tag, attributes in dom.elements if tag == "img"]
    assert len(pictures) > 15
    assert all(str(picture["src"]).startswith("data:image/") for picture in pictures)
    assert {"temple/darker.png", f"{HOSTILE}/grey.png"} <= {str(p["alt"]) for p in pictures}
    widths = "document.title = Math.min(...[...page.images].map(image => image.naturalWidth))"
    assert int(measured(page, tmp_path, 1000, widths)) >= 80


def test_a_hostile_name_stays_text(page: str, tmp_path: Path) -> None:
    dom, _, _ = visit(page, tmp_path)
    assert not [a for tag, a in dom.elements if tag == "img" and "onerror" in a]
    assert f"{HOSTILE}/{HOSTILE}.jpg: the file is empty" in dom.text


@pytest.mark.parametrize("width", [PHONE[0], DESKTOP[0]])
def test_page_is_no_wider_than_the_screen(page: str, tmp_path: Path, width: int) -> None:
    needed = "document.title = page.documentElement.scrollWidth"
    assert width - 20 <= int(measured(page, tmp_path, width, needed)) <= width


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_page_follows_the_colour_scheme(page: str, tmp_path: Path, size: tuple[int, int]) -> None:
    light = screenshot(page, tmp_path, size)
    dark = screenshot(page, tmp_path, size, "--force-dark-mode")
    assert light.shape == dark.shape == (size[1], size[0], 3)
    assert tuple(light[1, 1]) == (0xFF, 0xFF, 0xFF)
    assert tuple(dark[1, 1]) == (0x0D, 0x11, 0x17)
