"""`make setup`, without what it fetches from the package index."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow  # installs the project

COMMAND = "def main():\n    print(__file__)\n"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout without dependencies, whose command says which file it is run from."""
    root = tmp_path_factory.mktemp("make") / "checkout"
    for package in ("crossfold", "crossfold/cli", "components", "pipelines"):
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").touch()
    (root / "crossfold/cli/main.py").write_text(COMMAND)
    (root / "requirements").mkdir()
    for path in (PROJECT / "requirements").iterdir():
        (root / "requirements" / path.name).touch()
    for name in ("Makefile", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, root)
    scripts = root / ".venv/bin"
    scripts.mkdir(parents=True)
    shutil.copy(Path(sys.executable).parent / "uv", scripts)
    # Setuptools, which builds the project, is the one that the tests' environment has.
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib"), "UV_OFFLINE": "1"}
    command = ["make", "--no-print-directory", "setup", f"PYTHON={sys.executable}", "TORCH=cpu"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def command(root: Path, *words: str) -> str:
    """Run a command in a folder outside, as after `source .venv/bin/activate`."""
    script = 'source "$0/.venv/bin/activate" && cd / && "$@"'
    done = subprocess.run(
        ["bash", "-c", script, root, *words],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    return done.stdout.strip()


def test_a_copied_checkout_runs_its_own_code_and_so_does_the_original(
    checkout: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(checkout, tmp_path / "a copy", symlinks=True))
    for root in (checkout, copy):
        assert command(root, "crossfold") == str(root / "crossfold/cli/main.py")


def test_a_moved_checkout_keeps_its_environment(checkout: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkout, tmp_path / "copy", symlinks=True))
    moved = copy.rename(tmp_path / "moved")
    assert command(moved, "crossfold") == str(moved / "crossfold/cli/main.py")
