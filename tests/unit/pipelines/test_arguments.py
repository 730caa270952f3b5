import json
from pathlib import Path
from typing import Any

import yaml

from crossfold.settings import Settings, load_settings
from pipelines.arguments import arguments

from .conftest import DATA_POINTER, LINEAGE, MD5, SHIPPED


def test_the_arguments_are_the_settings(inputs: dict[str, Any], settings: Settings) -> None:
    shipped = yaml.safe_load(SHIPPED.read_text())
    assert inputs["folds"] == list(range(shipped["data"]["num_folds"]))
    assert inputs["cuts"] == ["head", "layer4"]
    for passed, written in zip(inputs["candidates"], shipped["candidates"], strict=True):
        assert passed == passed | written and None not in passed.values()
    same = {
        "remote": "data.remote",
        "image_size": "data.image_size",
        "test_fraction": "data.test_fraction",
        "split_seed": "data.seed",
        "max_skipped_fraction": "data.max_skipped_fraction",
        "architecture": "model.architecture",
        "weights": "model.weights",
        "num_epochs": "training.num_epochs",
        "batch_size": "training.batch_size",
        "training_seed": "training.seed",
        "threads_alone": "threads.alone",
        "threads_folds": "threads.folds",
        "min_macro_f1": "gate.min_macro_f1",
        "margin": "gate.margin",
        "model_name": "tracking.model_name",
    }
    for name, key in same.items():
        section, setting = key.split(".")
        assert inputs[name] == shipped[section][setting], name


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
