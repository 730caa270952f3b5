from pathlib import Path

import pytest

from crossfold.infra.image_tags import BuildArguments, Torch, code_name
from crossfold.runners.lineage import lineage
from crossfold.runners.local.backend import Backend
from crossfold.runners.local.containers import Containers
from crossfold.runners.local.processes import Processes
from crossfold.runners.local.run_lifecycle import _fingerprint
from crossfold.settings import load_settings
from pipelines.arguments import arguments
from pipelines.compilation import compile_pipeline

PROJECT = Path(__file__).parents[4]


def fingerprint(*overrides: str, backend: type[Backend] = Processes) -> str:
    settings = load_settings(PROJECT / "params.yaml", overrides)
    inputs = arguments(settings, PROJECT, lineage(PROJECT, settings, backend.name), [])
    return _fingerprint(inputs, backend.__new__(backend))  # without a Docker engine


def test_a_run_is_continued_with_the_same_settings_only() -> None:
    """MLflow refuses another value of a setting in the run that a continued one goes on with."""
    assert fingerprint() == fingerprint()
    for override in ("extraction.shards=2", "training.seed=1", "gate.margin=0.1"):
        assert fingerprint(override) != fingerprint()


@pytest.mark.slow
def test_a_run_of_processes_does_not_depend_on_what_images_are_built_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a step's image is in the keys of the cache."""

    def compiled() -> bytes:
        compile_pipeline(tmp_path / "pipeline.yaml", {}, image=code_name)
        return (tmp_path / "pipeline.yaml").read_bytes()

    before = compiled(), fingerprint(), fingerprint(backend=Containers)
    other = BuildArguments("python:3.12-slim", Torch.DEFAULT)
    monkeypatch.setattr("crossfold.infra.image_tags.build_arguments", lambda: other)
    after = compiled(), fingerprint(), fingerprint(backend=Containers)
    assert after[:2] == before[:2]
    assert after[2] != before[2]
