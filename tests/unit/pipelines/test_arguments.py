import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.json_format import MessageToDict

from crossfold.imaging.preprocessing import SquareGeometry
from crossfold.settings import Settings, load_settings
from crossfold.versioning import dvc
from pipelines.arguments import (
    AS_JSON,
    NOT_IN_STEPS,
    OF_DIAGNOSIS,
    OF_NETWORKS,
    PARAMETERS,
    arguments,
)
from pipelines.classification import pipeline

from .conftest import DATA_POINTER, LINEAGE, MD5, SHIPPED, write_pointers

SHIPPED_SETTINGS = yaml.safe_load(SHIPPED.read_text())
BOUNDS = {"minimum", "exclusiveMinimum", "ge", "gt", "maximum", "exclusiveMaximum", "le", "lt"}
NUMBERS = ("integer", "number")
SCHEMA = Settings.model_json_schema()
FIELDS = {
    f"{section}.{name}": field
    for section, entry in SCHEMA["properties"].items()
    for form in (entry, *entry.get("oneOf", ()))
    if "$ref" in form
    for name, field in SCHEMA["$defs"][form["$ref"].rpartition("/")[2]]
    .get("properties", {})
    .items()
}
SCALARS = FIELDS.keys() - NOT_IN_STEPS - OF_NETWORKS - OF_DIAGNOSIS
OTHER_FORM = {"model.backbones"}  # in place of the one network of params.yaml


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
    parameter = PARAMETERS.get(key, name)
    for whole, keys in (("backbone", OF_NETWORKS), ("diagnosis", OF_DIAGNOSIS)):
        if key in keys:
            parameter = whole
    places = {
        "settings.py, description": "description" in field,
        "settings.py, bounds": field.get("type") not in NUMBERS or bool(BOUNDS & field.keys()),
        "params.yaml": name in SHIPPED_SETTINGS[section] or "default" in field or key in OTHER_FORM,
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
        passed, shipped = inputs[PARAMETERS.get(key, name)], SHIPPED_SETTINGS[section][name]
        assert passed == (json.dumps(shipped) if key in AS_JSON else shipped), key


def test_no_two_settings_are_one_parameter() -> None:
    names = [PARAMETERS.get(key, key.split(".")[1]) for key in SCALARS]
    assert len(names) == len(set(names))
    assert PARAMETERS.keys() | NOT_IN_STEPS | OF_NETWORKS | OF_DIAGNOSIS <= FIELDS.keys()


def test_arguments_that_are_no_scalars(inputs: dict[str, Any]) -> None:
    assert inputs["folds"] == list(range(SHIPPED_SETTINGS["data"]["num_folds"]))
    assert inputs["cuts"] == ["head", "blocks.6"]
    assert inputs["choice"] == SHIPPED_SETTINGS["choice"] == "best"
    backbone = {**SHIPPED_SETTINGS["model"], "name": "tf_efficientnet_lite0"}
    del backbone["precision"]
    assert (inputs["part"], inputs["backbone"]) == (backbone["name"], backbone)
    assert (inputs["shard"], inputs["num_shards"], inputs["parts"]) == (0, 1, [])
    for passed, written in zip(inputs["candidates"], SHIPPED_SETTINGS["candidates"], strict=True):
        assert passed == passed | written and None not in passed.values()


def test_the_preprocessing_is_what_params_yaml_gives(tmp_path: Path) -> None:
    write_pointers(tmp_path)
    changed = ["model.mean=[0, 0.5, 1]", "model.crop=0.9"]
    found = arguments(load_settings(SHIPPED, changed), tmp_path, LINEAGE, [])
    # Lists, because kfp cannot pass a tuple.
    given = found["backbone"]
    assert (given["mean"], given["crop"]) == ([0, 0.5, 1], 0.9) and "image_size" not in given


def test_seeds_and_threads_are_not_mixed_up(tmp_path: Path) -> None:
    write_pointers(tmp_path)
    changed = ["data.seed=7", "training.seed=8", "threads.folds=3", "threads.alone=4"]
    found = arguments(load_settings(SHIPPED, changed), tmp_path, LINEAGE, [])
    assert (found["split_seed"], found["training_seed"]) == (7, 8)
    assert (found["threads_folds"], found["threads_alone"]) == (3, 4)


@pytest.mark.parametrize(("precision", "expected"), [("float32", 0), ("int8", 0), ("auto", 0.5)])
def test_only_auto_extracts_again_for_another_margin(
    tmp_path: Path, precision: str, expected: float
) -> None:
    write_pointers(tmp_path)
    changed = [f"model.precision={precision}", "gate.margin=0.5"]
    found = arguments(load_settings(SHIPPED, changed), tmp_path, LINEAGE, [])
    assert (found["int8_margin"], found["margin"]) == (expected, 0.5)


def test_pointers_are_one_line_that_says_what_the_file_says(inputs: dict[str, Any]) -> None:
    assert "\n" not in inputs["data_pointer"]
    assert json.loads(inputs["data_pointer"]) == yaml.safe_load(DATA_POINTER)
    assert json.loads(inputs["models_pointer"])["outs"][0]["path"] == "models"


def test_a_pointer_of_other_spacing_is_the_same_argument(
    tmp_path: Path, inputs: dict[str, Any], settings: Settings
) -> None:
    write_pointers(tmp_path)
    spaced = f"# by dvc add\nouts:\n  - path: data\n    hash: md5\n    md5: {MD5}\n"
    (tmp_path / "data.dvc").write_text(spaced + "    nfiles: 3\n    size: 12\n")
    found = arguments(settings, tmp_path, LINEAGE, [])
    assert found["data_pointer"] == inputs["data_pointer"]


TWO = (
    "model={precision: float32, backbones: ["
    "{name: one, architecture: resnet18, weights: a.pth}, "
    "{name: two, architecture: timm/resnet10t, weights: b.pth, image_size: 96}]}",
    "candidates.2.backbone=two",
)


def test_several_backbones_and_shards_are_parts_of_the_extraction(tmp_path: Path) -> None:
    settings = load_settings(SHIPPED, [*TWO, "extraction.shards=2"])
    geometries = [SquareGeometry(224, "bicubic"), SquareGeometry(96), SquareGeometry(96)]
    found = arguments(settings, write_pointers(tmp_path), LINEAGE, geometries)
    assert [(part["part"], part["shard"], part["num_shards"]) for part in found["parts"]] == [
        *[("one 0", 0, 2), ("one 1", 1, 2)],
        *[("two 0", 0, 2), ("two 1", 1, 2)],
    ]
    assert [part["cuts"] for part in found["parts"][1:3]] == [["head"], ["head", "blocks.6"]]
    wanted = [asdict(geometries[0]), asdict(geometries[1])]  # each once
    assert found["squares"] == wanted
    two = {"architecture": "timm/resnet10t", "weights": "b.pth", "image_size": 96, "name": "two"}
    assert found["parts"][2]["backbone"] == two
    assert (found["part"], found["backbone"], found["weights"]) == ("", {}, "")
    assert [candidate.get("backbone") for candidate in found["candidates"]] == [
        *["one", "one"],
        *["two", "two", "two"],
    ]


def test_weights_have_a_pointer_of_their_own_if_their_hash_is_known(tmp_path: Path) -> None:
    write_pointers(tmp_path)
    (tmp_path / ".dvc/config").touch()
    (tmp_path / "models").mkdir()
    settings, pointers = load_settings(SHIPPED, TWO), []
    for files in ("a", "ab"):
        for name in files:
            (tmp_path / f"models/{name}.pth").write_text(name)
        dvc.add(tmp_path / "models")
        parts = arguments(settings, tmp_path, LINEAGE, [])["parts"]
        pointers.append([json.loads(part["weights_pointer"])["outs"][0] for part in parts])
    (first, unknown), (again, second) = pointers
    assert (
        first
        == again
        == {"hash": "md5", "md5": "0cc175b9c0f1b6a831c399e269772661", "path": "a.pth"}
    )
    assert unknown["md5"].endswith(".dir") and second["path"] == "b.pth"
