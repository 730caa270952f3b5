from pathlib import Path
from typing import Any

import yaml

from crossfold.infra.image_tags import DATA, TRAIN, image_name
from pipelines.classification import pipeline
from pipelines.compilation import compile_pipeline

from .conftest import executors

# Which step gets which of the pipeline's parameters: what it reads, and no more, since each is
# part of the key under which its outputs are kept.
READERS = {
    "data_pointer": {"fetch-data"},
    "models_pointer": {"register-model"},
    "remote": {"fetch-data", "fetch-weights"},
    "test_fraction": {"fetch-data"},
    "folds": {"fetch-data", "for-loop-1"},
    "split_seed": {"fetch-data"},
    "max_skipped_fraction": {"fetch-data"},
    "labels": {"fetch-data"},
    "groups": {"fetch-data"},
    "tie_near_duplicates": {"fetch-data"},
    "exclude": {"fetch-data"},
    "relabel": {"fetch-data"},
    "squares": {"fetch-data"},
    "part": {"fetch-weights", "extract-features"},
    "backbone": {"extract-features"},
    "weights": {"fetch-weights"},
    "weights_pointer": {"fetch-weights"},
    "cuts": {"extract-features"},
    "shard": {"extract-features"},
    "num_shards": {"extract-features"},
    "parts": set(),
    "precision": {"extract-features", "train-fold", "train-final"},
    "int8_margin": {"extract-features"},
    "candidates": {"train-fold"},
    "choice": {"aggregate-cv"},
    "portable": {"train-fold", "train-final"},
    "class_weights": {"train-fold", "train-final", "diagnose-data"},
    "num_epochs": {"train-fold", "train-final"},
    "batch_size": {"train-fold", "train-final"},
    "training_seed": {"train-fold", "train-final"},
    "views": {"extract-features", "train-fold", "train-final"},
    "test_time": {"train-fold", "train-final"},
    "threads_alone": {
        "extract-features",
        "diagnose-data",
        "train-final",
        "evaluate-test",
        "register-model",
    },
    "threads_folds": {"train-fold"},
    "model_name": {"register-model"},
    "min_macro_f1": {"register-model"},
    "margin": {"register-model"},
    "signature_key": {"register-model"},
    "diagnosis": {"diagnose-data"},
    "lineage": {"register-model"},
}
OF_PARTS = {"part", "backbone", "weights", "weights_pointer", "cuts", "shard", "num_shards"}
IN_DATA_IMAGE = {"fetch-data", "fetch-weights"}
STEPS = {
    *IN_DATA_IMAGE,
    "extract-features",
    "train-fold",
    "aggregate-cv",
    "diagnose-data",
    "train-final",
    "evaluate-test",
    "register-model",
}


def test_the_arguments_are_the_pipelines_inputs(
    inputs: dict[str, Any], spec: dict[str, Any]
) -> None:
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert inputs.keys() == parameters.keys() == READERS.keys()
    assert {name: p["defaultValue"] for name, p in parameters.items()} == inputs


def test_every_step_is_a_task(tasks: dict[str, Any]) -> None:
    assert tasks.keys() - {"for-loop-1"} == STEPS


def test_a_step_gets_the_settings_it_reads_and_no_more(tasks: dict[str, Any]) -> None:
    readers: dict[str, set[str]] = {name: set() for name in READERS}
    for name, task in tasks.items():
        if name == "for-loop-1":
            readers["folds"].add(name)  # its inputs are what the steps inside need
            continue
        for value in task.get("inputs", {}).get("parameters", {}).values():
            source = value.get("componentInputParameter", "").removeprefix("pipelinechannel--")
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
        "fetch-data": {"examples": "Dataset", "data_page": "HTML"},
        "fetch-weights": {"weights_file": "Model"},
        "extract-features": {"features": "Dataset"},
        "train-fold": {"predictions": "Artifact"},
        "aggregate-cv": {"leaderboard": "Metrics"},
        "diagnose-data": {"diagnosis": "Metrics"},
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


def test_every_step_has_its_image_and_its_share_of_the_machine(spec: dict[str, Any]) -> None:
    found = executors(spec)
    assert found.keys() == STEPS
    for name, container in found.items():
        assert container["image"] == image_name(DATA if name in IN_DATA_IMAGE else TRAIN)
        resources = container["resources"]
        assert 0 < float(resources["resourceCpuRequest"]) <= float(resources["resourceCpuLimit"])
        request, limit = resources["resourceMemoryRequest"], resources["resourceMemoryLimit"]
        assert 0 < _bytes(request) <= _bytes(limit)


def _bytes(text: str) -> int:
    return int(text[:-2]) * {"Mi": 2**20, "Gi": 2**30}[text[-2:]]


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


def test_the_description_of_each_parameter_is_kept_by_the_pipeline() -> None:
    described = pipeline().component_spec.inputs
    assert described is not None and described.keys() == READERS.keys()


def test_parts_take_the_place_of_one_extraction(inputs: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    parts = [{name: inputs[name] for name in OF_PARTS} | {"shard": shard} for shard in range(3)]
    compile_pipeline(path, {**inputs, "parts": parts})
    spec = next(iter(yaml.safe_load_all(path.read_text())))
    loops = {
        name: component
        for name, component in spec["components"].items()
        if {"extract-features", "train-fold"} & component.get("dag", {}).get("tasks", {}).keys()
    }
    outer = spec["root"]["dag"]["tasks"]
    inner = {name.removeprefix("comp-") for name in loops}
    in_loops = {"fetch-weights", "extract-features", "train-fold"}
    assert outer.keys() == inner | {"join-features"} | STEPS - in_loops
    (name,) = (name for name in inner if "parts" in str(outer[name]["parameterIterator"]))
    assert outer[name]["iteratorPolicy"]["parallelismLimit"] > 1
    tasks = loops[f"comp-{name}"]["dag"]["tasks"]
    given = {
        value["parameterExpressionSelector"].split('"')[1]
        for task in tasks.values()
        for value in task["inputs"]["parameters"].values()
        if "parameterExpressionSelector" in value
    }
    assert given == OF_PARTS
    assert tasks["fetch-weights"]["inputs"].keys() == {"parameters"}  # it waits for no data
