import ast
from pathlib import Path

import pytest

from crossfold.errors import UserError
from crossfold.infra import shell

PROJECT = Path(__file__).parents[3]
STARTS = [f"subprocess.{name}" for name in ("run", "Popen", "call", "check_call", "check_output")]


def test_every_program_is_started_with_a_chosen_environment() -> None:
    paths = [*PROJECT.glob("pipelines/**/*.py"), *PROJECT.glob("crossfold/**/*.py")]
    calls = [
        (path.name, node.lineno, {keyword.arg for keyword in node.keywords})
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in STARTS
    ]
    assert len(calls) > 5
    assert [call for call in calls if "env" not in call[2]] == []


def test_a_folder_in_no_repository_is_told_from_git_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(shell.NoRepositoryError):
        shell.git(tmp_path, "rev-parse", "HEAD")
    shell.git(tmp_path, "init", "--quiet")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # as in a container, with a mount
    with pytest.raises(shell.GitError, match="dubious ownership") as caught:
        shell.git(tmp_path, "status")
    assert not isinstance(caught.value, shell.NoRepositoryError)


def test_git_that_is_not_installed_matters_in_a_repository_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(shell.NoRepositoryError):
        shell.git(tmp_path, "status")
    (tmp_path / ".git").mkdir()
    (tmp_path / "below").mkdir()
    with pytest.raises(UserError, match="git is not installed"):
        shell.git(tmp_path / "below", "status")
