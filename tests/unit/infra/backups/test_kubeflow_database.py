"""What Kubeflow's databases are after a restore that fails; tests/cluster has a real server."""

from pathlib import Path

import pytest

from crossfold.errors import UserError
from crossfold.infra.backups.kubeflow_database import UnrestoredError, replaced


class Databases:
    """Stands in for the container of MySQL: its content is that of the last file loaded."""

    def __init__(self, *, num_loads: int) -> None:
        self.content = "before"
        self.num_loads = num_loads

    def output(self, service: str, *command: str) -> str:
        return "information_schema\nmlpipeline\nmysql"

    def save(self, path: Path, service: str, *command: str) -> None:
        assert command[-1] == "mlpipeline"
        path.write_text(self.content)

    def load(self, path: Path, service: str, *command: str) -> None:
        self.content = "half"
        self.num_loads -= 1
        if self.num_loads < 0:
            raise UserError("no connection")
        self.content = path.read_text()


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    path = tmp_path / "kubeflow.sql"
    path.write_text("backup")
    return path


def test_the_databases_are_the_backups_if_the_block_succeeds(backup: Path) -> None:
    databases = Databases(num_loads=1)
    with replaced(databases, backup):
        assert databases.content == "backup"
    assert databases.content == "backup"


def test_the_databases_are_as_before_if_the_block_is_interrupted(backup: Path) -> None:
    databases = Databases(num_loads=2)
    with pytest.raises(KeyboardInterrupt), replaced(databases, backup):
        raise KeyboardInterrupt
    assert databases.content == "before"


def test_databases_that_are_neither_are_an_error_that_keeps_the_writers_stopped(
    backup: Path,
) -> None:
    databases = Databases(num_loads=0)
    with pytest.raises(UnrestoredError, match="no connection"), replaced(databases, backup):
        pass
