"""The generated reference pages, compared with the code."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "docs/reference"
GENERATOR = runpy.run_path(str(FOLDER / "generate.py"))


@pytest.mark.parametrize("name", GENERATOR["PAGES"])
def test_a_reference_page_is_up_to_date(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text == GENERATOR["render"](name), "run: make reference"
