from pathlib import Path
from typing import Any

import yaml

from pipelines.compilation import compile_pipeline

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
