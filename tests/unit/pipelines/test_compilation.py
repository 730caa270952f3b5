import json
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossfold.imaging.preprocessing import SquareGeometry
from crossfold.resource_settings import ResourceSettings
from pipelines.compilation import compile_pipeline
from pipelines.storage import estimate_storage

from .conftest import executors


def test_on_this_machine_no_step_is_repeated(tmp_path: Path, inputs: dict[str, Any]) -> None:
    compile_pipeline(tmp_path / "pipeline.yaml", inputs, retries=False)
    assert "retryPolicy" not in (tmp_path / "pipeline.yaml").read_text()


def test_no_value_of_the_environment_and_no_address_is_compiled_in(
    text: str, spec: dict[str, Any]
) -> None:
    assert all("env" not in container for container in executors(spec).values())
    assert "://" not in text


def test_on_a_small_cluster_a_step_requests_half_a_core(
    inputs: dict[str, Any], spec: dict[str, Any], tmp_path: Path
) -> None:
    compile_pipeline(tmp_path / "small.yaml", inputs, small=True)
    small = executors(next(iter(yaml.safe_load_all((tmp_path / "small.yaml").read_text()))))
    request = {"cpuRequest": 0.5, "resourceCpuRequest": "0.5"}
    for before, after in zip(executors(spec).values(), small.values(), strict=True):
        assert after == {**before, "resources": before["resources"] | request}


@pytest.mark.parametrize("cpu", [0.25, 2.0])
def test_what_a_setting_gives_is_reserved_on_a_small_cluster_too(
    cpu: float, inputs: dict[str, Any], tmp_path: Path
) -> None:
    settings = ResourceSettings.model_validate({"aggregate_cv": {"cpu": cpu}})
    compile_pipeline(tmp_path / "small.yaml", inputs, small=True, resources=settings)
    small = executors(next(iter(yaml.safe_load_all((tmp_path / "small.yaml").read_text()))))
    pod = small["aggregate-cv"]["resources"]
    assert (pod["resourceCpuRequest"], pod["resourceCpuLimit"]) == (f"{cpu:g}", f"{cpu:g}")


def test_settings_of_resources_change_one_steps_pod_and_nothing_that_the_cache_compares(
    inputs: dict[str, Any], spec: dict[str, Any], tmp_path: Path
) -> None:
    given = {"train_fold": {"cpu": 0.25, "memory": "5Gi", "storage": "3Mi"}}
    settings = ResourceSettings.model_validate(given)
    compile_pipeline(tmp_path / "changed.yaml", inputs, resources=settings)
    changed = next(iter(yaml.safe_load_all((tmp_path / "changed.yaml").read_text())))
    before, after = executors(deepcopy(spec)), executors(changed)
    pod = after["train-fold"].pop("resources")
    before["train-fold"].pop("resources")
    assert (pod["resourceCpuRequest"], pod["resourceCpuLimit"]) == ("0.25", "0.25")
    assert (pod["resourceMemoryRequest"], pod["resourceMemoryLimit"]) == ("5Gi", "5Gi")
    # As Kubeflow passes it to Kubernetes: a limit, which is the request, too.
    assert pod["accelerator"]["resourceType"] == "ephemeral-storage"
    assert pod["accelerator"]["resourceCount"] == str(3 * 2**20)
    assert after == before
    assert (changed["root"], changed["components"]) == (spec["root"], spec["components"])


def test_the_disk_of_the_data_is_requested_where_it_can_be_estimated(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    data = json.loads(inputs["data_pointer"])
    data["outs"][0] |= {"size": 1000 * 4_000_000, "nfiles": 1000}
    squares_of = [asdict(SquareGeometry(100, reducing_gap=2.0))]
    changed = {**inputs, "data_pointer": json.dumps(data), "squares": squares_of}
    squares, table = 1000 * 30_000, 800 * 30_000 + 200 * 4_000_000
    beside = 2**30 + 4 * 12  # the pointer of the weights has 12 bytes
    features = 1000 * 200_704
    storage = estimate_storage(changed | {"views": []}, 200_704)
    assert storage == {
        "fetch_data": 1.5 * (squares + table) + beside,
        "evaluate_test": 1.5 * table + beside,
        "register_model": 1.5 * table + beside,
        "extract_features": 1.5 * (table + features) + beside,
        "join_features": 1.5 * 2 * features + beside,
        "train_fold": 1.5 * features + beside,
        "diagnose_data": 1.5 * (table + features) + beside,
        "train_final": 1.5 * features + beside,
    }
    with_views = estimate_storage(changed | {"views": ["mirrored"]}, 200_704)
    assert with_views["train_fold"] == 1.5 * 2 * features + beside
    with_pixels = estimate_storage(changed | {"cuts": ["pixels"]}, 0)
    assert with_pixels["train_fold"] == 1.5 * 1000 * 30_000 + beside
    half = estimate_storage(changed, 0, ["train/a/1.png", "test/a/2.png"])
    assert half["evaluate_test"] == 1.5 * (500 * 30_000 + 500 * 4_000_000) + beside
    described = estimate_storage(changed | {"labels": '"labels.csv"'}, 0)
    assert described["evaluate_test"] == 1.5 * 1000 * 4_000_000 + beside
    compile_pipeline(tmp_path / "pipeline.yaml", changed, storage=storage)
    found = executors(next(iter(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text()))))
    requests = {name: c["resources"].get("accelerator") for name, c in found.items()}
    for step in ("fetch-data", "train-fold"):
        assert requests[step]["resourceCount"] == f"{storage[step.replace('-', '_')]:.0f}"


@pytest.mark.parametrize("pointer", ["data_pointer", "models_pointer"])
@pytest.mark.parametrize("size", [None, "12"])
def test_no_disk_is_requested_for_a_pointer_of_unknown_size(
    inputs: dict[str, Any], pointer: str, size: object
) -> None:
    parsed = json.loads(inputs[pointer])
    parsed["outs"][0]["size"] = size
    assert estimate_storage({**inputs, pointer: json.dumps(parsed)}, 2048) == {}
