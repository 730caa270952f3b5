import io
import json
import shutil
from pathlib import Path

from mlflow.tracking import MlflowClient
from rich.console import Console

from crossfold.cli.versions.version_tables import created, lineage_table, models_table


def test_a_version_that_was_taken_back_is_shown_as_refused(
    empty_store: Path, tmp_path: Path
) -> None:
    shutil.copy(empty_store, tmp_path)
    client = MlflowClient(*[f"sqlite:///{tmp_path}/mlflow.db"] * 2)
    client.create_registered_model("animals")
    first, held = (
        client.create_model_version("animals", "file:///nowhere", tags=tags)
        for tags in (
            {"gate_verdict": "first"},
            {"gate": "passed", "gate_verdict": "better", "rolled_back": "{}"},
        )
    )
    console = Console(file=io.StringIO(), width=80)
    console.print(models_table([held, first]))
    assert isinstance(console.file, io.StringIO)
    shown = [line.split() for line in console.file.getvalue().splitlines()[1:]]
    days = [f"{created(version):%Y-%m-%d}" for version in (held, first)]
    assert shown == [["2", days[0], "better"], ["refused"], ["1", days[1], "first"]]


def test_the_lineage_has_the_commit_in_one_line_beside_the_files_with_long_names(
    empty_store: Path, tmp_path: Path
) -> None:
    commit, hashes = (
        "c" * 40,
        {f"code/crossfold/templates/{n}{'x' * 40}.html": "" for n in range(3)},
    )
    tags = {"git_commit": commit, "files_sha256": json.dumps(hashes)}
    shutil.copy(empty_store, tmp_path)
    client = MlflowClient(*[f"sqlite:///{tmp_path}/mlflow.db"] * 2)
    client.create_registered_model("animals")
    version = client.create_model_version("animals", "file:///nowhere", tags=tags)
    console = Console(file=io.StringIO(), width=80)
    console.print(lineage_table(version))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert commit in shown
    assert "3 files" in shown
