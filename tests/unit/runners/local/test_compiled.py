"""Compiling the pipeline once for all runs that would compile the same."""

from collections.abc import Callable
from pathlib import Path

import pytest

from crossfold.resource_settings import NO_RESOURCES, ResourceSettings, StepResources
from crossfold.runners.local import compiled
from crossfold.runners.local.compiled import compiled_pipeline
from crossfold.runners.local.run_folders import new_run

INPUTS = {"parts": [], "seed": 0}


def image(role: str) -> str:
    return f"crossfold-{role}:0"


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were compiled, not copied."""
    paths: list[Path] = []

    def counted(path: Path, defaults: dict[str, object], **options: Callable[[str], str]) -> None:
        paths.append(path)
        path.write_text(f"{defaults} {options['image']('train')}")

    monkeypatch.setattr(compiled, "compile_pipeline", counted)
    return paths


def test_a_pipeline_is_compiled_once(tmp_path: Path, compilations: list[Path]) -> None:
    first, second = (new_run(tmp_path, "a") for _ in range(2))
    paths = [compiled_pipeline(run, INPUTS, image, NO_RESOURCES) for run in (first, second)]
    assert compilations == paths[:1]
    assert paths[1].read_text() == paths[0].read_text()
    assert paths[1].parent == second.folder


def test_an_interrupted_compilation_is_not_copied(tmp_path: Path, compilations: list[Path]) -> None:
    (new_run(tmp_path, "a").folder / "pipeline.yaml").write_text("half")
    compiled_pipeline(new_run(tmp_path, "a"), INPUTS, image, NO_RESOURCES)
    assert len(compilations) == 1


def test_an_interrupted_compilation_of_a_continued_run_is_not_copied(
    tmp_path: Path, compilations: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    continued = new_run(tmp_path, "a")
    compiled_pipeline(continued, INPUTS, image, NO_RESOURCES)

    def killed(path: Path, *_: object, **__: object) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(compiled, "compile_pipeline", killed)
        with pytest.raises(KeyboardInterrupt):
            compiled_pipeline(continued, INPUTS, image, NO_RESOURCES)
    compiled_pipeline(new_run(tmp_path, "a"), INPUTS, image, NO_RESOURCES)
    assert len(compilations) == 2


@pytest.mark.parametrize("change", ["parts", "image", "resources", "code", "python", "library"])
def test_whatever_it_depends_on_compiles_it_again(
    change: str, tmp_path: Path, compilations: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled_pipeline(new_run(tmp_path, "a"), INPUTS, image, NO_RESOURCES)
    inputs, other, resources = INPUTS, image, NO_RESOURCES
    if change == "parts":
        inputs = {**INPUTS, "parts": [{"part": "one"}, {"part": "two"}]}
    elif change == "image":

        def other(role: str) -> str:
            return f"crossfold-{role}:1"
    elif change == "resources":
        resources = ResourceSettings(train_fold=StepResources(cpu=2))
    elif change == "code":
        (tmp_path / "code/pipelines").mkdir(parents=True)
        (tmp_path / "code/pipelines/graph.py").write_text("pass")
        monkeypatch.setattr(compiled, "ROOT", tmp_path / "code")
    elif change == "python":
        monkeypatch.setattr("platform.python_version", lambda: "3.99")
    else:
        monkeypatch.setattr(compiled, "version", lambda library: f"{library} 99")
    compiled_pipeline(new_run(tmp_path, "a"), inputs, other, resources)
    assert len(compilations) == 2
