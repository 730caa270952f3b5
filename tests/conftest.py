"""What tests of several folders use."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def next_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with MLflow 3.18, to be put before the locked MLflow by PYTHONPATH."""
    folder = tmp_path_factory.mktemp("next") / "mlflow"
    requirements = Path(__file__).parent / "mlflow-3.18" / "requirements.txt"
    options = ("--quiet", "--no-deps", "--no-compile", "--require-hashes", f"--target={folder}")
    pip = (sys.executable, "-m", "pip", "install", *options, f"--requirement={requirements}")
    subprocess.run(pip, check=True)
    return folder
