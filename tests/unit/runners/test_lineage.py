import json
import subprocess
from pathlib import Path

import pytest

from crossfold.errors import UserError
from crossfold.infra.image_tags import DATA, TRAIN, image_name
from crossfold.runners.base import RunnerName
from crossfold.runners.lineage import lineage
from crossfold.settings import Settings, load_settings

SHIPPED = Path(__file__).parents[3] / "params.yaml"


@pytest.fixture
def settings() -> Settings:
    return load_settings(SHIPPED, ["tracking.uri=http://user:secret@mlflow:5000"])


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository in a folder of another one's, as a project may lie."""
    root = tmp_path / "project"
    for folder in ("crossfold/data", "reports"):
        (root / folder).mkdir(parents=True)
    for name in ("crossfold/data/fetch.py", "reports/metrics.json", "dvc.lock"):
        (root / name).write_text("first")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "first")
    return root


def test_the_commit_the_images_and_the_settings_are_named(
    repository: Path, settings: Settings
) -> None:
    found = lineage(repository, settings, RunnerName.LOCAL)
    assert found["git_commit"] == git(repository, "rev-parse", "HEAD")
    assert found["git_dirty"] == "false"
    assert (found["image_data"], found["image_train"]) == (image_name(DATA), image_name(TRAIN))
    said = json.loads(found["settings"])
    assert said == settings.model_dump(mode="json", exclude={"tracking", "resources"})
    assert said["training"]["num_epochs"] == settings.training.num_epochs
    assert found["runner"] == "local"
    assert "secret" not in json.dumps(found)


@pytest.mark.parametrize(
    ("path", "dirty"),
    [
        ("crossfold/data/fetch.py", "true"),
        ("crossfold/new.py", "true"),
        ("params.yaml", "true"),
        ("reports/metrics.json", "false"),
        ("reports/plots.csv", "false"),
        ("dvc.lock", "false"),
    ],
)
def test_a_changed_file_is_dirty_unless_it_is_a_result(
    repository: Path, settings: Settings, path: str, dirty: str
) -> None:
    (repository / path).write_text("second")
    assert lineage(repository, settings, RunnerName.LOCAL)["git_dirty"] == dirty


def test_outside_git_there_is_no_commit(tmp_path: Path, settings: Settings) -> None:
    found = lineage(tmp_path, settings, RunnerName.LOCAL)
    assert not {"git_commit", "git_dirty"} & found.keys()
    assert found["image_data"] == image_name(DATA)


def test_a_repository_without_a_commit_has_none(tmp_path: Path, settings: Settings) -> None:
    git(tmp_path, "init", "--quiet")
    assert not {"git_commit", "git_dirty"} & lineage(tmp_path, settings, RunnerName.LOCAL).keys()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1", "dubious ownership"),
        ("PATH", "/nowhere", "git is not installed"),
    ],
)
def test_a_commit_that_git_does_not_name_is_refused(
    repository: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    said: str,
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=said):
        lineage(repository, settings, RunnerName.LOCAL)
