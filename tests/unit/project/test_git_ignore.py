import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with the project's rules and nothing else."""
    root = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "--quiet", root], check=True)
    (root / ".dvc").mkdir()
    for name in (".gitignore", ".dvc/.gitignore"):
        shutil.copy(PROJECT / name, root / name)
    return root


def ignored(repository: Path, path: str) -> bool:
    command = ["git", "-C", str(repository), "check-ignore", "--quiet", path]
    return subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize(
    "path",
    [
        ".dvc/config.local",
        ".dvc/cache/files/md5/00/aa",
        ".dvc/tmp/lock",
        "credentials.json",
        "keys/gdrive-credentials.json",
        "my-service-account.json",
        "keys/service-account-prod.json",
        "id.pem",
        "keys/server.key",
        ".env",
        ".env.local",
        "services.env",
        "data/3/0001.bmp",
        "models/resnet18.pth",
        "runs/mlflow.db",
        "runs/cache/x",
        "dvc-remote/files/md5/00/aa",
        ".venv/bin/python",
    ],
)
def test_credentials_data_and_runs_stay_out_of_git(repository: Path, path: str) -> None:
    assert ignored(repository, path)


@pytest.mark.parametrize(
    "path",
    [
        ".dvc/config",
        ".dvcignore",
        "data.dvc",
        "models.dvc",
        "dvc.lock",
        "params.yaml",
        "reports/metrics.json",
        "crossfold/data/fetch.py",
        "components/fetch_data.py",
    ],
)
def test_what_a_clone_needs_is_in_git(repository: Path, path: str) -> None:
    assert not ignored(repository, path)


def test_the_committed_remotes_verify_and_hold_no_credential() -> None:
    config = configparser.ConfigParser()
    config.read(PROJECT / ".dvc" / "config")
    remotes = {name: dict(config[name]) for name in config.sections() if "remote" in name}
    assert set(remotes) == {"'remote \"sample\"'", "'remote \"minio\"'", "'remote \"gdrive\"'"}
    for options in remotes.values():
        assert options.pop("verify") == "true"
        assert set(options) <= {"url", "endpointurl", "gdrive_use_service_account"}
        assert "@" not in options["url"]
    assert config["core"]["remote"] == "sample"
    assert config["core"]["analytics"] == config["core"]["autostage"] == "false"
