import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from crossfold.errors import UserError
from crossfold.infra.services.compose import _separate_keys, read_environment, write_environment


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "services.env"
    write_environment(path)
    return path


def test_the_file_is_its_owners_alone_and_nothing_else_is_left(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_every_password_is_another_one(path: Path, tmp_path: Path) -> None:
    write_environment(tmp_path / "other.env")
    secret = ("PASSWORD", "SECRET")
    passwords = [
        value
        for file in (path, tmp_path / "other.env")
        for name, value in read_environment(file).items()
        if any(word in name for word in secret)
    ]
    assert len(set(passwords)) == len(passwords) == 14
    assert min(len(password) for password in passwords) == 32


def test_a_shell_that_sources_it_exports_what_a_run_needs_and_no_more(path: Path) -> None:
    command = f"source {path}; env --null"
    clean = {"PATH": os.environ["PATH"]}
    shell = subprocess.run(["bash", "-c", command], env=clean, stdout=subprocess.PIPE, check=True)
    exported = dict(line.split("=", 1) for line in shell.stdout.decode().split("\0") if line)
    values = read_environment(path)
    names = {name for name in exported if name.startswith(("MLFLOW", "AWS", "POSTGRES", "CROSS"))}
    assert names == {
        "MLFLOW_TRACKING_URI",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    }
    assert {name: exported[name] for name in names} == {name: values[name] for name in names}
    assert values["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5001"


def test_a_file_that_lacks_a_password_is_refused(path: Path) -> None:
    lines = path.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("POSTGRES_PASSWORD")]
    path.write_text("\n".join([*kept, "MLFLOW_AUTH_ADMIN_PASSWORD="]))
    missing = "does not set MLFLOW_AUTH_ADMIN_PASSWORD, POSTGRES_PASSWORD"
    with pytest.raises(UserError, match=f"services.env {missing}"):
        read_environment(path)


def test_the_root_key_of_an_earlier_version_is_not_exported_any_more(path: Path) -> None:
    lines = path.read_text().splitlines()
    old = [line for line in lines if not re.search("AWS_|MINIO_|S3_PASSWORD", line)]
    old += ["export AWS_ACCESS_KEY_ID=root", "export AWS_SECRET_ACCESS_KEY=key of the root"]
    path.write_text("\n".join(old) + "\n")
    said: list[str] = []
    _separate_keys(path, said.append)
    values = read_environment(path)
    assert (values["MINIO_ROOT_USER"], values["MINIO_ROOT_PASSWORD"]) == ("root", "key of the root")
    assert values["AWS_ACCESS_KEY_ID"] == "dvc"
    assert values["POSTGRES_PASSWORD"] in path.read_text()
    exported = [line for line in path.read_text().splitlines() if line.startswith("export")]
    assert not [line for line in exported if "root" in line]
    assert "source it again" in said[0]
    kept = path.read_text()
    _separate_keys(path, said.append)
    assert path.read_text() == kept and len(said) == 1


def test_services_that_were_never_started_cannot_be_stopped(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="crossfold services up"):
        read_environment(tmp_path / "services.env")
