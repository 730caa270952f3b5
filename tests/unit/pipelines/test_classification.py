import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossfold.infra.images import DATA, TRAIN, image_name
from crossfold.settings import Settings, load_settings
from pipelines.classification import arguments, compile_pipeline, pipeline

SHIPPED = Path(__file__).parents[3] / "params.yaml"
LINEAGE = {"git_commit": "0f", "settings": "{}"}
DATA_POINTER = "outs:\n- md5: 0a1b.dir\n  size: 12\n  nfiles: 3\n  hash: md5\n  path: data\n"

# Which step gets which of the pipeline's parameters: what it reads, and no more, since each is
# part of the key under which its outputs are kept.
READERS = {
    "data_pointer": {"fetch-data"},
    "models_pointer": {"fetch-data", "register-model"},
    "remote": {"fetch-data"},
    "weights": {"fetch-data"},
    "test_fraction": {"fetch-data"},
    "folds": {"fetch-data", "for-loop-1"},
    "split_seed": {"fetch-data"},
    "max_skipped_fraction": {"fetch-data"},
    "image_size": {"extract-features"},
    "cuts": {"extract-features"},
    "precision": {"extract-features", "train-fold", "train-final"},
    "architecture": {"extract-features", "train-fold", "aggregate-cv", "train-final"},
    "candidates": {"train-fold"},
    "num_epochs": {"train-fold", "train-final"},
    "batch_size": {"train-fold", "train-final"},
    "training_seed": {"train-fold", "train-final"},
    "threads_alone": {"extract-features", "train-final", "evaluate-test", "register-model"},
    "threads_folds": {"train-fold"},
    "model_name": {"register-model"},
    "min_macro_f1": {"register-model"},
    "margin": {"register-model"},
    "lineage": {"register-model"},
}
STEPS = {
    "fetch-data",
    "extract-features",
    "train-fold",
    "aggregate-cv",
    "train-final",
    "evaluate-test",
    "register-model",
}


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(SHIPPED, ["tracking.uri=http://user:secret@mlflow:5000"])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("project")
    (root / "data.dvc").write_text(DATA_POINTER)
    (root / "models.dvc").write_text(DATA_POINTER.replace("data", "models"))
    return arguments(settings, root, LINEAGE)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Any]) -> str:
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compile_pipeline(path, inputs)
    return path.read_text()


@pytest.fixture(scope="module")
def spec(text: str) -> dict[str, Any]:
    found: dict[str, Any] = next(iter(yaml.safe_load_all(text)))
    return found


@pytest.fixture(scope="module")
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


def test_the_arguments_are_the_pipelines_inputs(
    inputs: dict[str, Any], spec: dict[str, Any]
) -> None:
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert inputs.keys() == parameters.keys() == READERS.keys()
    assert {name: p["defaultValue"] for name, p in parameters.items()} == inputs


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
    spaced = "# by dvc add\nouts:\n  - path: data\n    hash: md5\n    md5: 0a1b.dir\n"
    (tmp_path / "data.dvc").write_text(spaced + "    nfiles: 3\n    size: 12\n")
    (tmp_path / "models.dvc").write_text(DATA_POINTER)
    found = arguments(settings, tmp_path, LINEAGE)
    assert found["data_pointer"] == inputs["data_pointer"]


def test_every_step_is_a_task(tasks: dict[str, Any]) -> None:
    assert tasks.keys() - {"for-loop-1"} == STEPS


def test_a_step_gets_the_settings_it_reads_and_no_more(tasks: dict[str, Any]) -> None:
    readers: dict[str, set[str]] = {name: set() for name in READERS}
    for name, task in tasks.items():
        if name == "for-loop-1":
            readers["folds"].add(name)  # its inputs are what the steps inside need
            continue
        for value in task.get("inputs", {}).get("parameters", {}).values():
            source = value["componentInputParameter"].removeprefix("pipelinechannel--")
            if source in readers:
                readers[source].add(name)
    assert readers == READERS
    assert tasks["for-loop-1"]["parameterIterator"]["items"]["inputParameter"].endswith("folds")


def test_the_graph_has_few_artifacts_and_metrics_only_where_they_are_compared(
    spec: dict[str, Any],
) -> None:
    outputs = {
        name.removeprefix("comp-"): {
            key: artifact["artifactType"]["schemaTitle"].removeprefix("system.")
            for key, artifact in component["outputDefinitions"]["artifacts"].items()
        }
        for name, component in spec["components"].items()
        if "executorLabel" in component
    }
    assert outputs == {
        "fetch-data": {"examples": "Dataset", "backbone": "Model", "data_page": "HTML"},
        "extract-features": {"features": "Dataset"},
        "train-fold": {"predictions": "Artifact"},
        "aggregate-cv": {"leaderboard": "Metrics"},
        "train-final": {"model": "Model"},
        "evaluate-test": {
            "evaluation": "Metrics",
            "roc_and_confusion_matrix": "ClassificationMetrics",
        },
        "register-model": {"registration": "Metrics", "report": "HTML", "summary": "Markdown"},
    }


def test_only_registration_is_never_answered_from_the_cache(tasks: dict[str, Any]) -> None:
    cached = {name for name in STEPS if tasks[name]["cachingOptions"].get("enableCache")}
    assert cached == STEPS - {"register-model"}


def test_every_step_is_repeated_after_a_failure(tasks: dict[str, Any]) -> None:
    for name in STEPS:
        policy = tasks[name]["retryPolicy"]
        assert policy["maxRetryCount"] == 2, name
        assert policy["backoffDuration"] == "5s" and policy["backoffFactor"] == 2


def test_on_this_machine_no_step_is_repeated(tmp_path: Path, inputs: dict[str, Any]) -> None:
    compile_pipeline(tmp_path / "pipeline.yaml", inputs, retries=False)
    assert "retryPolicy" not in (tmp_path / "pipeline.yaml").read_text()


def test_every_step_has_its_image_and_its_share_of_the_machine(spec: dict[str, Any]) -> None:
    found = executors(spec)
    assert found.keys() == STEPS
    for name, container in found.items():
        assert container["image"] == image_name(DATA if name == "fetch-data" else TRAIN)
        resources = container["resources"]
        assert 0 < float(resources["resourceCpuRequest"]) <= float(resources["resourceCpuLimit"])
        request, limit = resources["resourceMemoryRequest"], resources["resourceMemoryLimit"]
        assert request.endswith("Gi") and limit.endswith("Gi")
        assert 0 < int(request[:-2]) <= int(limit[:-2])


def test_nothing_is_installed_when_a_step_runs(spec: dict[str, Any]) -> None:
    for name, container in executors(spec).items():
        assert "pip install" not in " ".join(container["command"]), name


def test_people_see_names_and_descriptions(
    spec: dict[str, Any], tasks: dict[str, dict[str, Any]]
) -> None:
    assert spec["pipelineInfo"]["displayName"] == "Crossfold"
    assert spec["pipelineInfo"]["description"]
    for name, parameter in spec["root"]["inputDefinitions"]["parameters"].items():
        assert parameter.get("description"), name
    names = {tasks[step]["taskInfo"]["name"] for step in STEPS}
    assert len(names) == len(STEPS) and all(" " in name for name in names)
    # The outputs of ParallelFor's steps are collected into one list.
    collected = tasks["aggregate-cv"]["inputs"]["artifacts"]["predictions"]
    assert collected["taskOutputArtifact"]["producerTask"] == "for-loop-1"


def test_no_value_of_the_environment_and_no_address_is_compiled_in(
    text: str, spec: dict[str, Any]
) -> None:
    assert all("env" not in container for container in executors(spec).values())
    assert "://" not in text


def test_the_description_of_each_parameter_is_kept_by_the_pipeline() -> None:
    described = pipeline().component_spec.inputs
    assert described is not None and described.keys() == READERS.keys()


def test_shards_take_the_place_of_one_extraction(inputs: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    compile_pipeline(path, inputs, num_shards=3)
    spec = next(iter(yaml.safe_load_all(path.read_text())))
    loops = {
        name: component
        for name, component in spec["components"].items()
        if {"extract-shard", "train-fold"} & component.get("dag", {}).get("tasks", {}).keys()
    }
    outer = spec["root"]["dag"]["tasks"]
    inner = {name.removeprefix("comp-") for name in loops}
    assert outer.keys() == inner | {"join-features"} | STEPS - {"extract-features", "train-fold"}
    (iterator,) = (outer[name]["parameterIterator"] for name in inner if "raw" in str(outer[name]))
    assert json.loads(iterator["items"]["raw"]) == [0, 1, 2]
    (given,) = (
        loop["inputDefinitions"]["parameters"][iterator["itemInput"]]["parameterType"]
        for loop in loops.values()
        if "extract-shard" in loop["dag"]["tasks"]
    )
    assert given == "NUMBER_INTEGER"


def test_on_a_small_cluster_a_step_requests_half_a_core(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    compile_pipeline(tmp_path / "usual.yaml", inputs)
    compile_pipeline(tmp_path / "small.yaml", inputs, small=True)
    usual, small = (
        executors(next(iter(yaml.safe_load_all((tmp_path / name).read_text()))))
        for name in ("usual.yaml", "small.yaml")
    )
    for before, after in zip(usual.values(), small.values(), strict=True):
        assert after["resources"]["cpuRequest"] == 0.5
        assert after["resources"]["resourceCpuRequest"] == "0.5"
        before["resources"] |= {"cpuRequest": 0.5, "resourceCpuRequest": "0.5"}
        assert after == before
