import io

from mlflow.entities.model_registry import ModelVersion, ModelVersionTag
from rich.console import Console

from pipelines.version_tables import models_table


def registered(number: str, **tags: str) -> ModelVersion:
    """A version as the registry gives it."""
    found = [ModelVersionTag(*tag) for tag in tags.items()]  # type: ignore[no-untyped-call]
    return ModelVersion("animals", number, creation_timestamp=0, tags=found, aliases=[])


def test_a_version_that_was_taken_back_is_shown_as_refused() -> None:
    held = registered("2", gate="passed", gate_verdict="better", rolled_back="{}")
    console = Console(file=io.StringIO(), width=80)
    console.print(models_table([held, registered("1", gate_verdict="first")]))
    assert isinstance(console.file, io.StringIO)
    shown = [line.split() for line in console.file.getvalue().splitlines()[1:]]
    assert shown == [["2", "1970-01-01", "better"], ["refused"], ["1", "1970-01-01", "first"]]
