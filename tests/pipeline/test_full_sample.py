import json
from pathlib import Path

import pytest

from crossfold.cli.data import PHOTOGRAPHS_MODEL, PHOTOGRAPHS_SETTINGS

from .projects import sample_project


@pytest.mark.slow
def test_the_sample_as_shipped_reaches_97_percent(tmp_path: Path) -> None:
    project = sample_project(tmp_path / "project")
    output = project.call("crossfold", "run")
    test = json.loads((project.root / "reports/last/metrics.json").read_text())["test"]
    assert test["accuracy"] >= 0.97
    assert test["macro_f1"] >= 0.97
    assert "crossfold version 1 (registered), aliases: challenger, champion" in output


@pytest.mark.slow
def test_the_photographs_with_trained_weights_reach_95_percent(tmp_path: Path) -> None:
    project = sample_project(tmp_path / "project")
    output = project.call("crossfold", "sample", "--photos")
    changes = [
        word for change in (*PHOTOGRAPHS_SETTINGS, PHOTOGRAPHS_MODEL) for word in ("--set", change)
    ]
    assert f"crossfold run {' '.join(changes)}" in output
    project.call("crossfold", "run", *changes)
    test = json.loads((project.root / "reports/last/metrics.json").read_text())["test"]
    assert test["macro_f1"] >= 0.95
