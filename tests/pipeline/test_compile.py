import json
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components

from crossfold.infra import image_tags
from pipelines.compilation import compile_pipeline

from .projects import SCRIPTS, SOURCE, Project, environment

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "not-for-others-1",
    "GDRIVE_CREDENTIALS_DATA": "not-for-others-2",
    "MLFLOW_TRACKING_PASSWORD": "not-for-others-3",
}

FETCHING = ("exec-fetch-data", "exec-fetch-weights")


@pytest.fixture(scope="module")
def compiled(new_project: Callable[[], Project]) -> tuple[Project, list[Path]]:
    """The pipeline, compiled by two processes whose sets and dictionaries differ in order."""
    project = new_project()
    (project.root / ".dvc/config.local").write_text(
        "['remote \"minio\"']\n    secret_access_key = not-for-others-4\n"
    )
    paths = [project.root.with_name(f"pipeline-{seed}.yaml") for seed in range(2)]
    for seed, path in enumerate(paths):
        subprocess.run(
            ["crossfold", "compile"],
            cwd=project.root,
            env={**environment(), **SECRETS, "PYTHONHASHSEED": str(seed)},
            check=True,
        )
        (project.root / "pipeline.yaml").rename(path)
    return project, paths


def executors(path: Path) -> dict[str, dict[str, Any]]:
    specification, *_ = yaml.safe_load_all(path.read_text())
    found: dict[str, dict[str, Any]] = {
        name: executor["container"]
        for name, executor in specification["deploymentSpec"]["executors"].items()
    }
    return found


def test_compiling_twice_gives_the_same_bytes(compiled: tuple[Project, list[Path]]) -> None:
    one, other = compiled[1]
    assert one.read_bytes() == other.read_bytes()


def test_the_file_is_a_pipeline_with_the_settings_as_defaults(
    compiled: tuple[Project, list[Path]],
) -> None:
    project, (path, _) = compiled
    pipeline = components.load_component_from_file(str(path))
    inputs = pipeline.component_spec.inputs
    assert all(given.optional for given in inputs.values())
    assert inputs["backbone"].default["image_size"] == 32
    assert inputs["folds"].default == [0, 1, 2]
    assert [c["learning_rate"] for c in inputs["candidates"].default] == [0.003, 0.0001]
    pointer = yaml.safe_load((project.root / "data.dvc").read_text())
    assert json.loads(inputs["data_pointer"].default) == pointer


def test_every_task_has_its_image_requests_and_limits(
    compiled: tuple[Project, list[Path]],
) -> None:
    containers = executors(compiled[1][0])
    assert len(containers) == 9
    for name, container in containers.items():
        role = image_tags.DATA if name in FETCHING else image_tags.TRAIN
        assert container["image"] == image_tags.image_name(role)
        assert container["resources"].keys() >= {
            "resourceCpuRequest",
            "resourceCpuLimit",
            "resourceMemoryRequest",
            "resourceMemoryLimit",
        }


def on_kubernetes(path: Path) -> dict[str, dict[str, Any]]:
    _, platforms = yaml.safe_load_all(path.read_text())
    found: dict[str, dict[str, Any]] = platforms["platforms"]["kubernetes"]["deploymentSpec"][
        "executors"
    ]
    return found


def test_on_kubernetes_no_step_is_root_or_hangs_for_ever(
    compiled: tuple[Project, list[Path]],
) -> None:
    told = on_kubernetes(compiled[1][0])
    assert told.keys() == executors(compiled[1][0]).keys()
    for step in told.values():
        identity = step["securityContext"]
        assert identity == {"runAsUser": "65532", "runAsGroup": "65532", "runAsNonRoot": True}
        assert int(step["activeDeadlineSeconds"]) > 0
        assert step["imagePullPolicy"] == "IfNotPresent"


def test_on_kubernetes_a_step_learns_of_its_run_from_its_pod(
    compiled: tuple[Project, list[Path]],
) -> None:
    run = {"name": "CROSSFOLD_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}
    pod = {"name": "CROSSFOLD_POD_NAME", "fieldPath": "metadata.name"}
    for step in on_kubernetes(compiled[1][0]).values():
        assert step["fieldPathAsEnv"] == [run, pod]


def test_on_kubernetes_secrets_reach_only_the_steps_that_need_them(
    compiled: tuple[Project, list[Path]],
) -> None:
    for name, step in on_kubernetes(compiled[1][0]).items():
        given = {
            secret["secretName"]: {key["envVar"] for key in secret["keyToEnv"]}
            for secret in step["secretAsEnv"]
        }
        login = given.pop("crossfold-mlflow")
        assert "CROSSFOLD_MLFLOW_TRACKING_PASSWORD" in login
        # Kubeflow's plugin sets these, and Kubernetes refuses a pod that has them twice.
        assert not login & {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_RUN_ID"}
        if name in FETCHING:
            assert "AWS_SECRET_ACCESS_KEY" in given.pop("crossfold-dvc-remote")
        assert given == {}


def test_only_the_registration_is_never_answered_from_the_cache(
    compiled: tuple[Project, list[Path]],
) -> None:
    specification, *_ = yaml.safe_load_all(compiled[1][0].read_text())
    tasks = specification["root"]["dag"]["tasks"]
    tasks |= specification["components"]["comp-for-loop-1"]["dag"]["tasks"]
    steps = {name: task for name, task in tasks.items() if not name.startswith("for-loop")}
    cached = {
        name: task["cachingOptions"].get("enableCache", False) for name, task in steps.items()
    }
    assert len(cached) == 9
    assert [name for name, enabled in cached.items() if not enabled] == ["register-model"]


def test_a_loop_gives_its_steps_what_they_take(compiled: tuple[Project, list[Path]]) -> None:
    """Kubeflow's server does not turn text into numbers, as its local runner does."""
    specification, *_ = yaml.safe_load_all(compiled[1][0].read_text())
    loop = specification["root"]["dag"]["tasks"]["for-loop-1"]
    item = loop["parameterIterator"]["itemInput"]
    given = specification["components"]["comp-for-loop-1"]["inputDefinitions"]["parameters"]
    taken = specification["components"]["comp-train-fold"]["inputDefinitions"]["parameters"]
    assert given[item]["parameterType"] == taken["fold"]["parameterType"] == "NUMBER_INTEGER"


@pytest.mark.slow
def test_for_a_cluster_images_are_the_registrys_and_caching_may_be_off(
    compiled: tuple[Project, list[Path]], tmp_path: Path
) -> None:
    path = tmp_path / "pipeline.yaml"
    compile_pipeline(
        path,
        {},
        image=partial(image_tags.registry_name, registry="localhost:5000/team/"),
        caching=False,
    )
    here = executors(compiled[1][0])
    for name, container in executors(path).items():
        assert container["image"] == f"localhost:5000/team/{here[name]['image']}"
    assert "enableCache: true" in compiled[1][0].read_text()
    assert "enableCache: true" not in path.read_text()


def test_the_file_has_no_secret_and_no_path_of_this_machine(
    compiled: tuple[Project, list[Path]],
) -> None:
    project, (path, _) = compiled
    text = path.read_text()
    assert "not-for-others" not in text
    for folder in (project.root, SOURCE, SCRIPTS, Path.home()):
        assert str(folder) not in text


def test_an_image_is_named_by_what_goes_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("crossfold", "requirements", "images"):
        shutil.copytree(SOURCE / name, tmp_path / name)
    shutil.copy(SOURCE / ".dockerignore", tmp_path)
    there = {role: image_tags.image_name(role) for role in (image_tags.DATA, image_tags.TRAIN)}
    monkeypatch.setattr(image_tags, "ROOT", tmp_path)
    assert {role: image_tags.image_name(role) for role in there} == there

    (tmp_path / "requirements/torch.txt").open("a").write("#")
    assert image_tags.image_name(image_tags.DATA) == there[image_tags.DATA]
    assert image_tags.image_name(image_tags.TRAIN) != there[image_tags.TRAIN]

    (tmp_path / "crossfold/imaging/decoding.py").open("a").write("#")
    assert image_tags.image_name(image_tags.DATA) != there[image_tags.DATA]
