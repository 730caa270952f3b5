"""A page in headless Chromium. Needs Debian's package `chromium`."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

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


@dataclass(frozen=True)
class Visit:
    dom: Dom
    console: list[str]
    requests: list[str]


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


def visit(html: str, folder: Path, size: tuple[int, int] = DESKTOP) -> Visit:
    page, net_log = folder / "page.html", folder / "net.json"
    page.write_text(html, encoding="utf-8")
    dom, log = chromium(page, folder, size, "--dump-dom", f"--log-net-log={net_log}")
    events = json.loads(net_log.read_text(encoding="utf-8"))["events"]
    requests = [event["params"] for event in events if "initiator" in event.get("params", {})]
    urls = {request["url"] for request in requests if request["initiator"] != BROWSER_ITSELF}
    return Visit(
        dom=Dom(dom),
        console=re.findall(r":CONSOLE[:(].*", log),
        requests=sorted(url for url in urls if url.startswith(("http:", "https:"))),
    )


def measured(html: str, folder: Path, size: tuple[int, int], script: str) -> str:
    """What a script, with the page as `page`, puts into document.title."""
    # In a frame, as a window is at least 500 pixels wide.
    frame = f'<iframe width="{size[0]}" height="{size[1]}" srcdoc="{escape(html)}"></iframe>'
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
