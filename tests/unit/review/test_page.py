"""The page to decide on suspicious labels, and the decisions that it starts with."""

import base64
import hashlib
import json
import re
from html import unescape
from pathlib import Path

import pytest
import yaml
from PIL import Image

from crossfold.diagnosis.labels.label_errors import LabelIssue
from crossfold.errors import UserError
from crossfold.review.decisions import Decisions, read_decisions
from crossfold.review.page import render, reviewable
from crossfold.settings import DataSettings

PARAMS = Path(__file__).parents[3] / "params.yaml"
CLASSES = ("cat", "dog", "emu")


def issue(path: str, label: str = "cat", suggested: str = "dog") -> LabelIssue:
    return LabelIssue(
        path=path,
        label=label,
        suggested=suggested,
        label_probability=0.0123,
        suggested_probability=0.9,
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in CLASSES:
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (9, 9), (50 * number, 0, 0)).save(
                tmp_path / "data" / name / f"{number}.png"
            )
    return tmp_path / "data"


def decisions(data: Path, **changes: str) -> Decisions:
    shipped = yaml.safe_load(PARAMS.read_text())["data"]
    return read_decisions(data, DataSettings(**shipped | changes))


def checked(page: str) -> dict[str, str]:
    """The choice of each image that the page starts with, by its path."""
    fieldsets = re.findall(r'data-path="(.*?)".*?value="(\w+)"[^>]* checked', page, re.DOTALL)
    return dict(fieldsets)


def kept(page: str) -> dict[str, list[object]]:
    match = re.search(r'id="kept">(.*?)</script>', page)
    assert match
    found: dict[str, list[object]] = json.loads(match[1])
    return found


def test_without_decisions_each_image_keeps_its_label(data: Path) -> None:
    page = render((issue("cat/0.png"), issue("emu/1.png", "emu")), decisions(data))
    assert checked(page) == {"cat/0.png": "keep", "emu/1.png": "keep"}
    assert kept(page) == {"exclude": [], "relabel": []}
    assert page.count('<img src="data:image/') == 2
    assert "Keep <strong>cat</strong>, 1.2 %" in page
    assert page.count('<option value="emu"') == 2
    assert 'download="relabel.csv"' in page and 'download="exclude.csv"' in page


def test_earlier_decisions_are_where_the_page_starts(data: Path) -> None:
    (data / "exclude.csv").write_text("path\ncat/0.png\ndog/3.png\n")
    (data / "my.csv").write_text("path,label\ncat/1.png,dog\ncat/2.png,emu\ndog/2.png,cat\n")
    listed = tuple(issue(f"cat/{number}.png") for number in range(4))
    page = render(listed, decisions(data, relabel="my.csv"))
    assert checked(page) == {
        "cat/0.png": "exclude",
        "cat/1.png": "suggested",
        "cat/2.png": "other",
        "cat/3.png": "keep",
    }
    assert '<option value="emu" selected>' in page
    assert kept(page) == {"exclude": ["dog/3.png"], "relabel": [["dog/2.png", "cat"]]}
    assert 'download="my.csv"' in page and "relabel: my.csv" in page


def test_an_image_relabelled_before_the_run_can_get_its_first_label_back(data: Path) -> None:
    (data / "relabel.csv").write_text("path,label\ncat/0.png,emu\n")
    page = render((issue("cat/0.png", "emu", "dog"),), decisions(data, relabel="relabel.csv"))
    assert checked(page) == {"cat/0.png": "keep"}
    assert 'data-path="cat/0.png" data-given="cat"' in page


def test_the_policy_allows_exactly_the_one_script(data: Path) -> None:
    page = render((issue("cat/0.png"),), decisions(data))
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', page)
    assert policy
    assert unescape(policy[1]).startswith("default-src 'none'; ")
    assert unescape(policy[1]).endswith(f"script-src 'sha256-{digest}'")


def test_hostile_names_stay_text(data: Path) -> None:
    (data / "cat" / "0.png").rename(data / "cat" / '"><b>.png')
    (data / "cat" / "<").mkdir()
    (data / "cat" / "1.png").rename(data / "cat" / "<" / "script>.png")
    (data / "dog").rename(data / "<img src=x>")
    (data / "exclude.csv").write_text("path\ncat/</script>.png\n")
    page = render((issue('cat/"><b>.png', suggested="<img src=x>"),), decisions(data))
    assert "<img src=x>" not in page and "<b>" not in page
    assert page.count("</script>") == 2
    assert kept(page)["exclude"] == ["cat/</script>.png"]
    assert [unescape(path) for path in checked(page)] == ['cat/"><b>.png']


def test_an_image_that_is_damaged_by_now_can_still_be_excluded(data: Path) -> None:
    (data / "cat" / "0.png").write_bytes(b"damaged")
    page = render((issue("cat/0.png"),), decisions(data))
    assert "cannot be decoded" in page and 'value="exclude"' in page


def test_issues_that_no_longer_fit_the_data_are_left_out(data: Path) -> None:
    fit, *others = (
        issue("cat/0.png"),
        issue("cat/99.png"),
        issue("cat/1.png", "cat", "fox"),
        issue("cat/2.png", "fox"),
    )
    found = decisions(data)
    assert reviewable((*others, fit), found) == (fit,)
    assert "Not shown: 3," in render((fit,), found, len(others))


def test_faulty_decisions_are_refused(data: Path) -> None:
    (data / "relabel.csv").write_text("path,label\ncat/0.png,fox\n")
    with pytest.raises(UserError, match=r"no class:\n  line 2: cat/0.png \('fox'\)"):
        decisions(data)
