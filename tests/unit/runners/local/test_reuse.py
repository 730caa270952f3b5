import re
import shutil
from pathlib import Path

import pytest

from crossfold.infra.image_tags import BuildArguments, Torch, code_name
from crossfold.runners.lineage import lineage
from crossfold.runners.local import reuse
from crossfold.runners.local.backends.base import Backend
from crossfold.runners.local.backends.containers import Containers
from crossfold.runners.local.backends.processes import Processes
from crossfold.runners.local.run_folders import FAILED, FINISHED, load_run, new_run
from crossfold.settings import load_settings
from crossfold.versioning import dvc
from pipelines.arguments import arguments
from pipelines.compilation import compile_pipeline

PROJECT = Path(__file__).parents[4]


def fingerprint(*overrides: str, backend: type[Backend] = Processes) -> str:
    settings = load_settings(PROJECT / "params.yaml", overrides)
    inputs = arguments(settings, PROJECT, lineage(PROJECT, settings, backend.name), [])
    image = backend.__new__(backend).image  # without a Docker engine
    return reuse.fingerprint(inputs, settings, backend.name, image)


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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a finished run of the shipped settings."""
    for name in ("params.yaml", "data.dvc", "models.dvc"):
        shutil.copy(PROJECT / name, tmp_path / name)
    settings = load_settings(tmp_path / "params.yaml")
    run = new_run(tmp_path / "runs", "")
    run.request = reuse.request(tmp_path, settings, Processes.name)
    outputs = tmp_path / "runs/pipeline/fetch_data"
    for folder in (outputs, tmp_path / "runs/cache" / reuse.process_cache()):
        folder.mkdir(parents=True)
    run.step_done("fetch_data", outputs)
    run.end(FINISHED)
    return tmp_path


def expected(project: Path, *overrides: str) -> bool:
    settings = load_settings(project / "params.yaml", overrides)
    return reuse.expects_full_reuse(project, settings)


def test_a_finished_run_with_the_same_inputs_is_reused(project: Path) -> None:
    assert expected(project)
    assert not expected(project, "gate.margin=0.1")
    for name in dvc.FOLDERS:
        pointer = project / f"{name}.dvc"
        before = pointer.read_text()
        pointer.write_text(re.sub("md5: [0-9a-f]{8}", "md5: 00000000", before))
        assert not expected(project)
        pointer.write_text(before)
    assert expected(project)


def test_other_code_reuses_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "code_name", lambda role: f"{role}:other")
    assert not expected(project)


def test_a_run_in_containers_is_not_reused(project: Path) -> None:
    run = load_run(next(project.glob("runs/*/run.json")))
    run.request = reuse.request(project, load_settings(project / "params.yaml"), Containers.name)
    run.save()
    assert not expected(project)


def test_a_run_that_did_not_finish_is_not_reused(project: Path) -> None:
    load_run(next(project.glob("runs/*/run.json"))).end(FAILED)
    assert not expected(project)


@pytest.mark.parametrize("folder", ["pipeline/fetch_data", "cache"])
def test_without_its_outputs_a_run_is_not_reused(project: Path, folder: str) -> None:
    shutil.rmtree(project / "runs" / folder)
    assert not expected(project)


def test_a_project_that_cannot_run_is_left_to_the_run(project: Path) -> None:
    (project / "data.dvc").unlink()
    assert not expected(project)
