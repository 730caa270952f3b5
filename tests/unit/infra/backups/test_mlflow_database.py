"""MLflow's database at a lost connection; tests/docker has a real server."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from crossfold.errors import UserError
from crossfold.infra.backups import mlflow_database


@dataclass
class Database:
    """Stands in for the container of PostgreSQL; `schema` is the number of its schema."""

    dumped: str = "-- PostgreSQL database dump complete"
    schema: int = 1
    replaces: bool = True

    def output(self, service: str, *command: str) -> str:
        return str(self.schema)

    def save(self, path: Path, service: str, *command: str) -> None:
        path.write_text(self.dumped)

    def load(self, path: Path, service: str, *command: str) -> None:
        self.schema += self.replaces


def test_a_dump_that_is_cut_never_gets_its_commit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mlflow\.sql"):
        mlflow_database.dump(Database(dumped="COPY runs"), tmp_path / "mlflow.sql")
    assert "COMMIT" not in (tmp_path / "mlflow.sql").read_text()


def test_a_load_that_was_rolled_back_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.sql"
    mlflow_database.dump(Database(), path)
    mlflow_database.load(Database(), path)
    with pytest.raises(UserError, match="as before"):
        mlflow_database.load(Database(replaces=False), path)
