from pathlib import Path
from typing import Any

import pytest
import yaml

from crossfold.imaging.preprocessing import SquareGeometry
from crossfold.settings import Settings, load_settings
from pipelines.arguments import arguments
from pipelines.compilation import compile_pipeline

SHIPPED = Path(__file__).parents[3] / "params.yaml"
LINEAGE = {"git_commit": "0f", "settings": "{}"}
MD5 = "0a1b0a1b0a1b0a1b0a1b0a1b0a1b0a1b.dir"
DATA_POINTER = f"outs:\n- md5: {MD5}\n  size: 12\n  nfiles: 3\n  hash: md5\n  path: data\n"


def write_pointers(root: Path) -> Path:
    """Write a project of DVC pointers whose data are nowhere."""
    (root / ".dvc").mkdir()
    (root / "data.dvc").write_text(DATA_POINTER)
    (root / "models.dvc").write_text(DATA_POINTER.replace("data", "models"))
    return root


@pytest.fixture(scope="session")
def settings() -> Settings:
    return load_settings(SHIPPED, ["tracking.uri=http://user:secret@mlflow:5000"])


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> dict[str, Any]:
    root = write_pointers(tmp_path_factory.mktemp("project"))
    return arguments(settings, root, LINEAGE, [SquareGeometry(224, reducing_gap=2.0)])


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Any]) -> str:
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compile_pipeline(path, inputs)
    return path.read_text()


@pytest.fixture(scope="session")
def spec(text: str) -> dict[str, Any]:
    found: dict[str, Any] = next(iter(yaml.safe_load_all(text)))
    return found


@pytest.fixture(scope="session")
def tasks(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every task of the graph by name, those inside the loop, too."""
    found = dict(spec["root"]["dag"]["tasks"])
    for component in spec["components"].values():
        found.update(component.get("dag", {}).get("tasks", {}))
    return found


def executors(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name.removeprefix("exec-"): executor["container"]
        for name, executor in spec["deploymentSpec"]["executors"].items()
    }
