"""`crossfold review-labels` as a user runs it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from crossfold.cli.review import review_labels
from crossfold.errors import UserError

PROJECT = Path(__file__).parents[3]
CROSSFOLD = Path(sys.executable).with_name("crossfold")
HEADER = "path,label,suggested,label_probability,suggested_probability\n"
ISSUE = "cat/0.png,cat,dog,0.01,0.9\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    (tmp_path / "reports").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "data" / name / "0.png")
    return tmp_path


def review(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CROSSFOLD, "review-labels", *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )


def write_issues(project: Path, rows: str) -> None:
    (project / "reports" / "label_issues.csv").write_text(HEADER + rows)


def test_the_page_lists_the_issues_of_the_last_run(project: Path) -> None:
    write_issues(project, ISSUE + "cat/gone.png,cat,dog,0.02,0.8\n")
    done = review(project)
    assert (done.returncode, done.stderr) == (0, "")
    assert "reports/review_labels.html is written, with 1 image to review" in done.stdout
    page = (project / "reports" / "review_labels.html").read_text()
    assert 'data-path="cat/0.png"' in page and "Not shown: 1," in page


def test_without_a_run_or_issues_it_says_so(project: Path) -> None:
    done = review(project)
    assert done.returncode == 2
    assert "reports/label_issues.csv is missing: `crossfold run` writes it" in done.stderr
    write_issues(project, "")
    done = review(project)
    assert (done.returncode, done.stderr) == (0, "")
    assert "lists no label errors" in done.stdout


def test_issues_of_other_images_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    write_issues(project, ISSUE.replace("0.png", "gone.png"))
    with pytest.raises(UserError, match="none of the 1 images to review is in data/"):
        review_labels()
    assert not (project / "reports" / "review_labels.html").exists()


def test_a_run_on_this_machine_can_be_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    folder = project / "runs" / "one"
    folder.mkdir(parents=True)
    steps = {"diagnose_data": "one/diagnose_data"}
    run = {"id": "one", "fingerprint": "", "started": 0, "steps": steps, "processes": {}}
    (folder / "run.json").write_text(json.dumps(run))
    with pytest.raises(UserError, match="its files are deleted"):
        review_labels("one")
    (folder / "diagnose_data").mkdir()
    found = dict(zip(HEADER.strip().split(","), ISSUE.strip().split(","), strict=True))
    counts = {"num_images": 2, "num_mistakes": 1, "num_issues": 1, "error_share": 0.5}
    record = {"left_out": {}, "label_errors": {**counts, "classes": [], "issues": [found]}}
    (folder / "diagnose_data" / "diagnosis").write_text(json.dumps(record))
    review_labels("one", Path("page.html"))
    assert 'data-path="cat/0.png"' in (project / "page.html").read_text()
    with pytest.raises(UserError, match="runs/ has no run of that name"):
        review_labels("two")
