import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.json_format import MessageToDict

from crossfold.settings import Settings, load_settings
from pipelines.arguments import NOT_IN_STEPS, PARAMETERS, PREPROCESSING, arguments
from pipelines.classification import pipeline

from .conftest import DATA_POINTER, LINEAGE, MD5, SHIPPED

SHIPPED_SETTINGS = yaml.safe_load(SHIPPED.read_text())
BOUNDS = {"minimum", "exclusiveMinimum", "ge", "gt", "maximum", "exclusiveMaximum", "le", "lt"}
NUMBERS = ("integer", "number")
SCHEMA = Settings.model_json_schema()
FIELDS = {
    f"{section}.{name}": field
    for section, entry in SCHEMA["properties"].items()
    if "$ref" in entry
    for name, field in SCHEMA["$defs"][entry["$ref"].rpartition("/")[2]]["properties"].items()
}
SCALARS = FIELDS.keys() - NOT_IN_STEPS - PREPROCESSING


@pytest.fixture(scope="module")
def graph() -> dict[str, Any]:
    """The compiled graph, without arguments."""
    found: dict[str, Any] = MessageToDict(pipeline().pipeline_spec)
    return found


def parameters_of_steps(graph: dict[str, Any]) -> set[str]:
    """List the parameters of the graph that any step, inside or outside a loop, gets."""
    dags = [graph["root"]["dag"], *(c["dag"] for c in graph["components"].values() if "dag" in c)]
    return {
        value.get("componentInputParameter", "").removeprefix("pipelinechannel--")
        for dag in dags
        for name, task in dag["tasks"].items()
        if not name.startswith("for-loop")
        for value in task.get("inputs", {}).get("parameters", {}).values()
    }


@pytest.mark.parametrize("key", FIELDS)
def test_a_setting_is_at_every_place_that_contributing_lists(
    key: str, graph: dict[str, Any]
) -> None:
    section, name = key.split(".")
    field = FIELDS[key]
    parameter = "preprocessing" if key in PREPROCESSING else PARAMETERS.get(key, name)
    places = {
        "settings.py, description": "description" in field,
        "settings.py, bounds": field.get("type") not in NUMBERS or bool(BOUNDS & field.keys()),
        "params.yaml": name in SHIPPED_SETTINGS[section] or "default" in field,
    }
    if key not in NOT_IN_STEPS:
        in_graph = graph["root"]["inputDefinitions"]["parameters"]
        places |= {
            "classification.py, parameter": parameter in in_graph,
            "classification.py, docstring": "description" in in_graph.get(parameter, {}),
            "components, input": parameter in parameters_of_steps(graph),
        }
    assert [place for place, done in places.items() if not done] == []


def test_every_setting_is_passed_under_its_parameter(inputs: dict[str, Any]) -> None:
    for key in SCALARS:
        section, name = key.split(".")
        assert inputs[PARAMETERS.get(key, name)] == SHIPPED_SETTINGS[section][name], key


def test_no_two_settings_are_one_parameter() -> None:
    names = [PARAMETERS.get(key, key.split(".")[1]) for key in SCALARS]
    assert len(names) == len(set(names))
    assert PARAMETERS.keys() | NOT_IN_STEPS | PREPROCESSING <= FIELDS.keys()


def test_arguments_that_are_no_scalars(inputs: dict[str, Any]) -> None:
    assert inputs["folds"] == list(range(SHIPPED_SETTINGS["data"]["num_folds"]))
    assert inputs["cuts"] == ["head", "layer4"]
    assert inputs["preprocessing"] == {"image_size": 32}
    for passed, written in zip(inputs["candidates"], SHIPPED_SETTINGS["candidates"], strict=True):
        assert passed == passed | written and None not in passed.values()


def test_the_preprocessing_is_what_params_yaml_gives(tmp_path: Path) -> None:
    for name in ("data.dvc", "models.dvc"):
        (tmp_path / name).write_text(DATA_POINTER)
    changed = ["model.image_size=null", "model.mean=[0, 0.5, 1]", "model.crop=0.9"]
    found = arguments(load_settings(SHIPPED, changed), tmp_path, LINEAGE)
    # Lists, because kfp cannot pass a tuple.
    assert found["preprocessing"] == {"mean": [0, 0.5, 1], "crop": 0.9}


def test_seeds_and_threads_are_not_mixed_up(tmp_path: Path) -> None:
    for name in ("data.dvc", "models.dvc"):
        (tmp_path / name).write_text(DATA_POINTER)
    changed = ["data.seed=7", "training.seed=8", "threads.folds=3", "threads.alone=4"]
    found = arguments(load_settings(SHIPPED, changed), tmp_path, LINEAGE)
    assert (found["split_seed"], found["training_seed"]) == (7, 8)
    assert (found["threads_folds"], found["threads_alone"]) == (3, 4)


def test_pointers_are_one_line_that_says_what_the_file_says(inputs: dict[str, Any]) -> None:
    assert "\n" not in inputs["data_pointer"]
    assert json.loads(inputs["data_pointer"]) == yaml.safe_load(DATA_POINTER)
    assert json.loads(inputs["models_pointer"])["outs"][0]["path"] == "models"


def test_a_pointer_of_other_spacing_is_the_same_argument(
    tmp_path: Path, inputs: dict[str, Any], settings: Settings
) -> None:
    spaced = f"# by dvc add\nouts:\n  - path: data\n    hash: md5\n    md5: {MD5}\n"
    (tmp_path / "data.dvc").write_text(spaced + "    nfiles: 3\n    size: 12\n")
    (tmp_path / "models.dvc").write_text(DATA_POINTER)
    found = arguments(settings, tmp_path, LINEAGE)
    assert found["data_pointer"] == inputs["data_pointer"]
