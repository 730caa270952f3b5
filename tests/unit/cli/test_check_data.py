"""`crossfold check-data` as a user runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROJECT = Path(__file__).parents[3]
SCRIPTS = Path(sys.executable).parent


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a folder of 8 images of each of two classes, one with a look-alike."""
    settings = (PROJECT / "params.yaml").read_text()
    small = settings.replace("  precision:", "  image_size: 32\n  precision:")  # no need of torch
    (tmp_path / "params.yaml").write_text(small)
    rng = np.random.default_rng(0)
    for name in ("cat", "[red]dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(8):
            coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
            image = coarse.resize((60, 60), Image.Resampling.BICUBIC)
            image.save(tmp_path / "data" / name / f"{index}.png")
    image.save(tmp_path / "data" / "[red]dog" / "8.jpg", quality=70)
    return tmp_path


def check(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["crossfold", "check-data", *arguments],
        cwd=project,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(PROJECT), "COLUMNS": "60"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_good_folder_is_summed_up_and_has_a_page(project: Path) -> None:
    Image.open(project / "data/cat/0.png").convert("L").save(project / "data/cat/8.png")
    done = check(project, "data")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split() for line in done.stdout.splitlines()[:3]] == [
        ["class", "images", "training", "test"],
        ["[red]dog", "9", "7", "2"],
        ["cat", "9", "7", "2"],
    ]
    assert "18 images of 2 classes, 4 of them held out for the test" in done.stdout
    assert "1  greyscale   cat/8.png (stored as L)" in done.stdout
    assert "[red]dog/7.png, [red]dog/8.jpg" in done.stdout
    assert done.stdout.endswith(" reports/data.html\n")
    assert "18 images of 2 classes" in (project / "reports/data.html").read_text()


def test_the_page_goes_where_one_says(project: Path) -> None:
    done = check(project, "data", "--page", "look/here.html")
    assert done.stdout.endswith(" look/here.html\n")
    assert (project / "look/here.html").exists()
    assert not (project / "reports").exists()


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("data", "folder"),
        ("params.yaml/x/y.html", "params.yaml is not"),
        ("/proc/x.html", "be written"),
    ],
)
def test_a_page_that_cannot_be_written_is_said(project: Path, page: str, message: str) -> None:
    before = sorted(project.rglob("*"))
    done = check(project, "data", "--page", page)
    assert (done.returncode, done.stdout) == (2, "")
    said = " ".join(done.stderr.split())
    assert said.startswith(f"error: --page {page}: ")
    assert message in said
    assert sorted(project.rglob("*")) == before


def test_a_folder_that_cannot_be_used_ends_in_2_with_the_list_and_has_a_page(
    project: Path,
) -> None:
    (project / "data/cat/empty.png").write_bytes(b"")
    cut = (project / "data/cat/0.png").read_bytes()[:-40]
    (project / "data/cat/cut.png").write_bytes(cut)
    done = check(project, "data")
    assert done.returncode == 2
    assert "2 of 19 images cannot be used" in done.stderr
    assert "data/cat/empty.png: the file is empty" in done.stderr
    assert "data/cat/cut.png: corrupt or truncated" in done.stderr
    page = (project / "reports/data.html").read_text()
    assert "data/cat/cut.png: corrupt or truncated" in page
    assert "cannot be trained on as it is" in page
    assert "Held out for the test</dt><dd>–" in page


def test_a_folder_without_class_folders_is_refused_without_a_page(project: Path) -> None:
    done = check(project, "data/cat")
    assert done.returncode == 2
    assert "cat/<class>/" in done.stderr and "cat/0.png" in done.stderr
    assert not (project / "reports").exists()


def test_faults_of_the_layout_are_on_the_page_too(project: Path) -> None:
    (project / "data/labels.csv").write_text("0.png,cat")
    (project / "data/fox").mkdir()
    (project / "data/cat" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    (project / "data/dog").mkdir()
    (project / "data/cat/Thumbs.db").write_bytes(b"")
    done = check(project, "data")
    page = (project / "reports/data.html").read_text()
    assert done.returncode == 2
    for name in ("data/labels.csv", "data/fox", "data/cat/caf\\xe9.png"):
        assert name in done.stderr
        assert name in page
    assert "Thumbs.db (1)" in done.stdout
    assert "cat/Thumbs.db" in page


def test_all_of_a_class_can_be_unusable(project: Path) -> None:
    for path in (project / "data/cat").iterdir():
        path.write_text("no image")
    done = check(project, "data")
    assert done.returncode == 2
    assert "8 of 17 images cannot be used" in done.stderr
    assert (project / "reports/data.html").exists()


def test_no_image_may_be_usable(project: Path) -> None:
    for path in (project / "data").rglob("*.*"):
        path.write_text("no image")
    done = check(project, "data")
    assert done.returncode == 2
    assert "17 of 17 images cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_skipped_images_are_listed(project: Path) -> None:
    (project / "data/cat/empty.png").write_bytes(b"")
    params = project / "params.yaml"
    text = params.read_text().replace("max_skipped_fraction: 0.0", "max_skipped_fraction: 0.1")
    params.write_text(text)
    done = check(project, "data")
    assert done.returncode == 0
    assert re.search("1 .*skipped", done.stdout)
    assert "data/cat/empty.png: the file is empty" in done.stdout


def test_groups_of_params_yaml_are_found_and_kept_together(project: Path) -> None:
    params = project / "params.yaml"
    pattern = "groups: {pattern: '^(?P<plant>[0-9])'}"  # in both classes
    params.write_text(params.read_text().replace("groups: null", pattern))
    done = check(project, "data")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Groups by the pattern ^(?P<plant>[0-9])" in done.stdout
    assert "The largest, 0, has 2 of 17 images (11.8%)" in done.stdout
    assert "Groups by the pattern ^(?P&lt;plant&gt;" in (project / "reports/data.html").read_text()


def test_too_few_groups_are_listed_by_class(project: Path) -> None:
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("groups: null", "groups: {file: g.csv}"))
    done = check(project, "data")
    assert done.returncode == 2
    assert "data/ has no g.csv" in done.stderr
    paths = sorted(path.relative_to(project / "data") for path in (project / "data").rglob("*.*"))
    lines = [f"{path},{path.name if path.parts[0] == 'cat' else 'site A'}" for path in paths]
    (project / "data/g.csv").write_text("\n".join(["path,group", *lines]))
    done = check(project, "data")
    assert done.returncode == 2
    assert "a class needs 6 groups" in done.stderr
    assert "class '[red]dog': 9 images in 1 group\n" in done.stderr
    assert "class 'cat'" not in done.stderr and "g.csv" not in done.stderr


def test_corrections_are_counted_in_the_terminal_and_on_the_page(project: Path) -> None:
    params = project / "params.yaml"
    text = params.read_text().replace("exclude: null", "exclude: exclude.csv")
    params.write_text(text.replace("relabel: null", "relabel: relabel.csv"))
    (project / "data/exclude.csv").write_text("path\n[red]dog/8.jpg\n")
    (project / "data/relabel.csv").write_text("path,label\n[red]dog/7.png,cat\n")
    done = check(project, "data")
    assert (done.returncode, done.stderr) == (0, "")
    page = (project / "reports/data.html").read_text()
    for fact in (
        "Images excluded by data/exclude.csv: 1",
        "Images relabelled by data/relabel.csv: 1",
    ):
        assert fact in done.stdout and fact in page
    (project / "data/relabel.csv").write_text("path,label\n[red]dog/8.jpg,emu\n")
    done = check(project, "data")
    assert done.returncode == 2
    assert "are also in data/exclude.csv:\n  line 2: [red]dog/8.jpg" in done.stderr
    assert "a label that is no class:\n  line 2: [red]dog/8.jpg ('emu')" in done.stderr
