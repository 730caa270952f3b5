import io
import shutil
from pathlib import Path

from mlflow.tracking import MlflowClient
from rich.console import Console

from pipelines.version_tables import created, models_table


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
