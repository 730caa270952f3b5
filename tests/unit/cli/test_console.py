import os
import subprocess
import sys
from pathlib import Path

import pytest

from crossfold.cli.console import require_output_file
from crossfold.cli.run import compile_
from crossfold.errors import UserError
from crossfold.step.user import ensure_user_name, user_name

PROJECT = Path(__file__).parents[3]
NO_NAME = 12345


def test_a_file_in_no_folder_is_refused_before_anything_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # which has no params.yaml, the next thing that is read
    for path in ("no/such/folder/p.yaml", "folder.yaml"):
        (tmp_path / "folder.yaml").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=f"--output {path}"):
            compile_(Path(path))


def test_a_new_file_and_one_that_is_there_are_taken(tmp_path: Path) -> None:
    require_output_file("--output", tmp_path / "p.yaml")
    (tmp_path / "p.yaml").touch()
    require_output_file("--output", tmp_path / "p.yaml")


@pytest.mark.slow
def test_a_uid_without_a_name_gets_one_for_the_libraries_that_ask() -> None:
    """torch asks for the user's name as it chooses the folder of its compiled code."""
    program = (
        "import os, pwd\n"
        "from crossfold.step.user import ensure_user_name, user_name\n"
        "from torch._inductor.runtime.cache_dir_utils import default_cache_dir\n"
        f"if os.getuid() == 0: os.setuid({NO_NAME})\n"
        "else: pwd.getpwuid = {}.__getitem__  # only root can have another uid\n"
        "ensure_user_name()\n"
        "assert user_name() == f'uid-{os.getuid()}'\n"
        "assert user_name() in default_cache_dir()"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("USER", "LOGNAME", "LNAME")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, env=environment)
    assert done.returncode == 0, done.stderr


def test_a_name_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.delenv("USER", raising=False)
    ensure_user_name()
    assert user_name() == "ada"
