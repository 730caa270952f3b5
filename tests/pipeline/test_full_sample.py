"""Whole runs of both samples, with the settings that are meant for them."""

import json
from pathlib import Path

import pytest

from crossfold.cli.data import digits_options

from .projects import SOURCE, Project, sample_project


def macro_f1(project: Project) -> float:
    metrics = json.loads((project.root / "reports/last/metrics.json").read_text())
    return float(metrics["test"]["macro_f1"])


@pytest.mark.slow
def test_the_sample_as_shipped_gives_a_champion(tmp_path: Path) -> None:
    project = sample_project(tmp_path / "project")
    output = project.call("crossfold", "run")
    assert round(macro_f1(project), 4) == 0.9681
    assert "crossfold version 1 (registered), aliases: challenger, champion" in output
    # README has the hash of processors with AVX-512, and that of AVX2 alone.
    lineage = json.loads(project.call("crossfold", "lineage", "@champion", "--json"))
    assert lineage["weights_hash"] in (SOURCE / "README.md").read_text()
    checked = project.call("crossfold", "check-leakage")
    assert "252 training images in 250 sets that belong together: copies" in checked
    assert "No clear difference" in checked


@pytest.mark.slow
def test_the_digits_reach_97_percent_with_random_weights(tmp_path: Path) -> None:
    project = sample_project(tmp_path / "project")
    output = project.call("crossfold", "sample", "--digits")
    options = digits_options()
    assert f"crossfold run {' '.join(options)}" in output
    project.call("crossfold", "run", *options)
    assert macro_f1(project) >= 0.97
