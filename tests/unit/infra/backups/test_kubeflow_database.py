"""What Kubeflow's databases are after a restore that fails; tests/cluster has a real server."""

from pathlib import Path

import pytest

from crossfold.errors import UserError
from crossfold.infra.backups.kubeflow_database import UnrestoredError, replaced

BEFORE = "before\n-- Dump completed"


class Databases:
    """Stands in for the container of MySQL: its content is that of the last file loaded."""

    def __init__(self, *, num_loads: int, present: str = "mlpipeline") -> None:
        self.content = BEFORE
        self.num_loads = num_loads
        self.present = present
        self.dropped: list[str] = []

    def output(self, service: str, *command: str) -> str:
        if "DROP DATABASE" in command[-1]:
            self.dropped.append(command[-1].split()[-1])
        return f"information_schema\n{self.present}\nmysql"

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
    assert databases.content == BEFORE
    assert databases.dropped == ["metadb", "cachedb"]


def test_without_databases_before_none_stay_after_a_failed_load(backup: Path) -> None:
    databases = Databases(num_loads=0, present="")
    with pytest.raises(UserError, match="no connection"), replaced(databases, backup):
        pass
    assert databases.dropped == ["mlpipeline", "metadb", "cachedb"]


def test_a_copy_that_is_cut_replaces_nothing(backup: Path) -> None:
    databases = Databases(num_loads=1)
    databases.content = "before\n"
    with pytest.raises(UserError, match=r"before\.sql"), replaced(databases, backup):
        pass
    assert databases.num_loads == 1


def test_databases_that_are_neither_are_an_error_that_keeps_the_writers_stopped(
    backup: Path,
) -> None:
    databases = Databases(num_loads=0)
    with pytest.raises(UnrestoredError, match="no connection"), replaced(databases, backup):
        pass
