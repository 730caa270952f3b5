import subprocess
from pathlib import Path

import pytest

from crossfold.errors import UserError
from crossfold.reproduce.worktree import checked_out


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a project in one of its folders, and two commits."""
    root = tmp_path / "repository"
    (root / "below").mkdir(parents=True)
    git(root, "init", "--quiet")
    for text in ("first", "second"):
        for name in ("params.yaml", "pyproject.toml"):
            (root / "below" / name).write_text(text)
        git(root, "add", ".")
        git(root, "commit", "--quiet", "--message", text)
    return root


def test_the_project_is_there_as_it_was_and_goes_again(repository: Path, tmp_path: Path) -> None:
    hook = repository / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\n")
    hook.chmod(0o755)
    commit = git(repository, "rev-parse", "HEAD~1")
    with checked_out(repository / "below", commit, tmp_path / "tree", keep=False) as project:
        assert project == tmp_path / "tree/below"
        assert (project / "params.yaml").read_text() == "first"
        (project / "new").touch()
    assert not (tmp_path / "tree").exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert not (tmp_path / "hooked").exists()
    assert git(repository, "status", "--porcelain") == ""


def test_it_goes_when_the_block_fails_and_stays_when_it_is_to_be_kept(
    repository: Path, tmp_path: Path
) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        checked_out(repository / "below", "HEAD", tmp_path / "tree", keep=False),
    ):
        raise KeyboardInterrupt
    assert not (tmp_path / "tree").exists()
    with checked_out(repository / "below", "HEAD", tmp_path / "tree", keep=True):
        pass
    assert (tmp_path / "tree/below/params.yaml").exists()


def test_a_commit_that_is_not_there_says_how_to_get_it(repository: Path, tmp_path: Path) -> None:
    first = git(repository, "rev-parse", "HEAD~1")
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{repository}", "shallow")
    for root, commit, said in (
        (repository / "below", "0" * 40, "`git fetch --all`"),
        (tmp_path / "shallow/below", first, "`git fetch --unshallow`"),
        (tmp_path, first, "not in a git repository"),
    ):
        with (
            pytest.raises(UserError, match=said),
            checked_out(root, commit, tmp_path / "tree", keep=False),
        ):
            pass
        assert not (tmp_path / "tree").exists()


def test_a_commit_without_the_code_is_refused(repository: Path, tmp_path: Path) -> None:
    git(repository, "rm", "--quiet", "below/pyproject.toml")
    git(repository, "commit", "--quiet", "--message", "third")
    with (
        pytest.raises(UserError, match=r"has no pyproject\.toml"),
        checked_out(repository / "below", "HEAD", tmp_path / "tree", keep=False),
    ):
        pass
    assert not (tmp_path / "tree").exists()


def test_without_git_it_says_so(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(UserError, match="git is not installed"),
        checked_out(repository / "below", "HEAD", tmp_path / "tree", keep=False),
    ):
        pass
