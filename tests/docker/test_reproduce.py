"""A version that was trained in containers, trained again by either runner."""

import shutil

import pytest

from crossfold.network import processor

from ..pipeline.projects import SOURCE, STEPS, Project, commit, titles, write_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, images: dict[str, str]) -> Project:
    """With a version of containers, from a commit that has what its images are made of."""
    project = write_project(tmp_path_factory.mktemp("reproduce") / "project")
    shutil.copytree(SOURCE / "images", project.root / "images")
    shutil.copy(SOURCE / ".dockerignore", project.root)
    commit(project)
    output = project.call("crossfold", "run", "--on", "docker")
    assert "crossfold version 1 (registered)" in output
    return project


@pytest.mark.parametrize("runner", ["local", "docker"])
def test_a_version_of_containers_is_reproduced_to_the_last_digit(
    project: Project, runner: str
) -> None:
    output = project.call("crossfold", "reproduce", "1", "--on", runner)
    assert sorted(titles(output, "✓")) == sorted(STEPS)
    assert "The same, weights and scores to the last digit" in output
    assert list((project.root / "runs/reproduce").iterdir()) == []


def test_a_version_of_processes_in_int8_is_reproduced_in_docker(project: Project) -> None:
    """A processor without instructions for int8 trains none."""
    command = ("crossfold", "run", "--set", "model.precision=int8")
    if not processor.has_int8():
        output = project.call(*command, status=1)
        assert titles(output, "✗") == ["extract_features resnet18"]
        assert processor.WITHOUT_INT8 in " ".join(output.split())
        return
    assert "crossfold version 2 (registered)" in project.call(*command)
    output = project.call("crossfold", "reproduce", "2", "--on", "docker")
    assert sorted(titles(output, "✓")) == sorted(STEPS)
    assert "The same, weights and scores to the last digit" in output
