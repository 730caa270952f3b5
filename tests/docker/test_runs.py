"""One project's life in containers, beside the same project's run in processes.

As in tests/pipeline/test_runs.py every stage is a fixture that goes on from the one before.
"""

import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import docker
import psutil
import pytest
import yaml
from docker.errors import NotFound

from crossfold.cli.console import console
from crossfold.network import NETWORK_FILE, SETS_FILE
from crossfold.runners.display import Display
from crossfold.runners.failures import StepError
from crossfold.runners.local.backends.containers import IMAGE_USER, _Container
from crossfold.runners.local.run_folders import new_run
from crossfold.runners.local.session import Session
from crossfold.tracking.run_tree import OUTCOME

from ..pipeline.projects import STEPS, Project, alive, titles, wait_until, write_project
from .watch import watched

IN_DOCKER = ("crossfold", "run", "--on", "docker")
CHANGE = ("--set", "training.num_epochs=1")
SECRETS = {"AWS_ACCESS_KEY_ID": "the-key", "AWS_SECRET_ACCESS_KEY": "the-secret"}


@dataclass(frozen=True)
class Finished:
    """What a run printed and left."""

    output: str
    metrics: bytes
    run: dict[str, Any]
    containers: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, images: dict[str, str]) -> Project:
    return write_project(tmp_path_factory.mktemp("docker") / "project")


def run(project: Project, *command: str, containers: dict[str, Any] | None = None) -> Finished:
    output = project.call(*command)
    metrics = (project.root / "reports/last/metrics.json").read_bytes()
    return Finished(output, metrics, project.runs()[-1], containers or {})


@pytest.fixture(scope="module")
def in_processes(project: Project) -> Finished:
    return run(project, "crossfold", "run")


@pytest.fixture(scope="module")
def in_containers(
    project: Project, in_processes: Finished, engine: docker.DockerClient
) -> Finished:
    with watched(engine) as containers, project.exported(SECRETS):
        return run(project, "crossfold", "run", "--on", "docker", containers=containers)


def steps_containers(engine: docker.DockerClient, run_id: str) -> list[Any]:
    filters = {"label": f"crossfold.run={run_id}"}
    # A container that is removed between the listing and its inspection is none.
    found = engine.containers.list(all=True, filters=filters, ignore_removed=True)
    return list(found)


# The same pipeline in both


def results(finished: Finished) -> dict[str, bytes]:
    steps = {title: Path(folder) for title, folder in finished.run["steps"].items()}
    model = steps["train_final"] / "model"
    files = [steps["diagnose_data"] / "diagnosis", model / NETWORK_FILE, model / SETS_FILE]
    return {path.name: path.read_bytes() for path in files}


def test_containers_and_processes_give_the_same_numbers_weights_and_diagnosis(
    project: Project, in_processes: Finished, in_containers: Finished
) -> None:
    builds = []
    for finished in (in_processes, in_containers):
        fold = project.steps(project.parent(finished.run["id"]))["train_fold 0"]
        builds.append({key: fold.data.tags[key] for key in ("torch", "processor_kernels")})
    assert builds[0] == builds[1], "build the images with the torch that is installed: TORCH=…"
    assert titles(in_containers.output, "↺") == []
    assert in_containers.metrics == in_processes.metrics
    assert results(in_containers) == results(in_processes)
    assert "crossfold version 1 (registered before, the same weights)" in in_containers.output


def test_the_summary_is_the_same(in_processes: Finished, in_containers: Finished) -> None:
    def numbers(output: str) -> str:
        return output.partition("Cross-validation")[2].partition("crossfold version")[0]

    assert numbers(in_containers.output) == numbers(in_processes.output) != ""
    assert sorted(titles(in_containers.output, "✓")) == sorted(STEPS)
    assert f"0 of {len(STEPS)} steps from the cache" in in_containers.output


def test_both_land_side_by_side_in_mlflow(
    project: Project, in_processes: Finished, in_containers: Finished
) -> None:
    client = project.client()
    for finished, runner in ((in_processes, "local"), (in_containers, "docker")):
        parent = project.parent(finished.run["id"])
        assert parent.data.tags["crossfold.runner"] == runner
        assert sorted(project.steps(parent)) == sorted(STEPS)
        assert parent.info.status == "FINISHED"
        artifacts = {file.path for file in client.list_artifacts(parent.info.run_id)}
        assert artifacts == {"plots", "figures.json", *OUTCOME}


def test_nothing_is_left_but_results(
    project: Project, in_containers: Finished, engine: docker.DockerClient
) -> None:
    assert steps_containers(engine, in_containers.run["id"]) == []
    assert in_containers.run["containers"] == []
    assert in_containers.run["processes"] == {}
    assert project.unfinished_files() == []
    at_work = [p for p in psutil.process_iter() if str(project.root) in " ".join(arguments(p))]
    assert alive(at_work) == []


def arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


# What `docker inspect` shows


def test_no_step_is_root_or_may_write_to_its_image(in_containers: Finished) -> None:
    assert sorted(in_containers.containers) == sorted(STEPS)
    for attributes in in_containers.containers.values():
        user, _, group = attributes["Config"]["User"].partition(":")
        assert (int(user), int(group)) == (
            os.getuid() or IMAGE_USER,
            os.getgid() or IMAGE_USER,
        )
        host = attributes["HostConfig"]
        assert host["ReadonlyRootfs"] and not host["Privileged"]
        assert host["CapDrop"] == ["ALL"]
        assert "no-new-privileges" in host["SecurityOpt"]


def test_every_step_has_its_image_and_its_own_limits(
    project: Project, in_containers: Finished, images: dict[str, str]
) -> None:
    package = Path(in_containers.run["folder"]) / "pipeline.yaml"
    compiled, *_ = yaml.safe_load_all(package.read_text())
    stated = {
        name.removeprefix("exec-").replace("-", "_"): executor["container"]
        for name, executor in compiled["deploymentSpec"]["executors"].items()
    }
    for title, attributes in in_containers.containers.items():
        container = stated[title.partition(" ")[0]]
        role = "data" if title.startswith("fetch_") else "train"
        assert attributes["Config"]["Image"] == container["image"] == images[role]
        resources, host = container["resources"], attributes["HostConfig"]
        cores = min(float(resources["resourceCpuLimit"]), psutil.cpu_count() or 1)
        assert host["NanoCpus"] == cores * 1e9
        gibibytes = int(resources["resourceMemoryLimit"].removesuffix("Gi"))
        assert host["Memory"] == host["MemorySwap"] == gibibytes * 2**30


def test_nothing_is_mounted_but_the_pipeline_root_and_the_remote(
    project: Project, in_containers: Finished
) -> None:
    for title, attributes in in_containers.containers.items():
        binds = {
            (mount["Source"], mount["RW"])
            for mount in attributes["Mounts"]
            if mount["Type"] == "bind"
        }
        expected = {(str(project.root / "runs/pipeline"), True)}
        if title.startswith("fetch_"):
            expected.add((str(project.root / "dvc-remote"), False))
        assert binds == expected


def test_the_remote_reaches_only_the_steps_that_fetch(in_containers: Finished) -> None:
    for title, attributes in in_containers.containers.items():
        names = {variable.partition("=")[0] for variable in attributes["Config"]["Env"]}
        assert ("CROSSFOLD_DVC_REMOTE" in names) == title.startswith("fetch_")
        assert "MLFLOW_TRACKING_URI" in names
        assert not names & SECRETS.keys()  # a folder needs none


# The model that containers made


def test_the_champion_predicts_here(project: Project, in_containers: Finished) -> None:
    image = next((project.root / "data/3").iterdir())
    assert "\t3\t" in project.call("crossfold", "predict", str(image))


# Again, interrupted, killed, continued


@pytest.fixture(scope="module")
def again(project: Project, in_containers: Finished) -> Finished:
    return run(project, *IN_DOCKER)


def test_a_run_with_nothing_changed_is_answered_from_the_cache(again: Finished) -> None:
    assert titles(again.output, "✓") == ["register_model"]
    assert f"{len(STEPS) - 1} of {len(STEPS)} steps from the cache" in again.output


@pytest.fixture(scope="module")
def interrupted(project: Project, again: Finished) -> dict[str, Any]:
    with project.started(*IN_DOCKER, *CHANGE) as process:
        project.wait_for_step(process, "train_fold 0")
        parent = project.parent(project.runs()[-1]["id"])
        wait_until(lambda: "train_fold 0" in project.steps(parent))
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert "interrupted" in process.stdout.read()
        assert process.wait() == 128 + signal.SIGINT
    return project.runs()[-1]


def test_an_interrupt_stops_the_containers(
    project: Project, interrupted: dict[str, Any], engine: docker.DockerClient
) -> None:
    assert interrupted["status"] == "interrupted"
    assert steps_containers(engine, interrupted["id"]) == []
    parent = project.parent(interrupted["id"])
    statuses = {title: step.info.status for title, step in project.steps(parent).items()}
    assert parent.info.status == "KILLED"
    assert "RUNNING" not in statuses.values() and "KILLED" in statuses.values()


@pytest.fixture(scope="module")
def killed(
    project: Project, interrupted: dict[str, Any], engine: docker.DockerClient
) -> dict[str, Any]:
    """The same again, killed as a fold trains; its container is made to wait."""
    with project.started(*IN_DOCKER, *CHANGE) as process:
        project.wait_for_step(process, "train_fold")
        wait_until(lambda: steps_containers(engine, interrupted["id"]))
        for container in steps_containers(engine, interrupted["id"]):
            wait_until(partial(is_running, container))
            container.pause()
        process.kill()
    return project.runs()[-1]


def is_running(container: Any) -> bool:
    container.reload()
    return bool(container.status == "running")


def test_the_next_run_removes_the_containers_of_a_killed_one_and_goes_on(
    project: Project, killed: dict[str, Any], engine: docker.DockerClient
) -> None:
    left = steps_containers(engine, killed["id"])
    assert left and {container.id for container in left} <= set(killed["containers"])
    continued = run(project, *IN_DOCKER, *CHANGE)
    assert continued.run["id"] == killed["id"] and continued.run["status"] == "finished"
    for container in left:
        with pytest.raises(NotFound):
            container.reload()
    assert sorted(titles(continued.output, "✓")) == sorted(set(STEPS) - set(killed["steps"]))


# Failures


def test_a_step_that_fails_fails_the_run(project: Project, killed: dict[str, Any]) -> None:
    output = project.call(*IN_DOCKER, "--set", "data.num_folds=100", status=1)
    assert "error: fetch_data: too few images for the holdout and every fold" in output
    assert "Traceback" not in output
    assert project.runs()[-1]["status"] == "failed"
    assert titles(output, "✗") == ["fetch_data"]


def test_a_container_that_is_killed_fails_the_run(
    project: Project, killed: dict[str, Any], engine: docker.DockerClient
) -> None:
    with project.started(*IN_DOCKER, "--set", "training.num_epochs=2") as process:
        project.wait_for_step(process, "train_fold")
        run_id = project.runs()[-1]["id"]
        wait_until(lambda: [c for c in steps_containers(engine, run_id) if is_running(c)])
        steps_containers(engine, run_id)[0].kill()
        assert process.stdout is not None
        output = process.stdout.read()
        assert process.wait() == 1
    assert re.search(r"error: train_fold \d: was ended by SIGKILL", output)
    assert steps_containers(engine, run_id) == []


def test_a_step_that_needs_more_memory_than_its_limit_is_named(
    engine: docker.DockerClient, images: dict[str, str], tmp_path: Path
) -> None:
    container = engine.containers.create(
        images["data"], ["python3", "-c", "b'x' * 2**30"], mem_limit="64m", memswap_limit="64m"
    )
    record = new_run(tmp_path, "")
    record.container_created(container.id)
    container.start()
    work = _Container(engine, container, record)
    assert list(work.output()) == []
    assert "0.0625 GiB" in work.wait()
    assert json.loads((record.folder / "run.json").read_text())["containers"] == []


def test_a_container_whose_log_meets_a_full_disk_is_removed(
    engine: docker.DockerClient, images: dict[str, str], tmp_path: Path
) -> None:
    talks = "import time\nwhile True: print('at work', flush=True); time.sleep(0.1)"
    container = engine.containers.create(images["data"], ["python3", "-c", talks])
    record = new_run(tmp_path, "")
    (record.folder / "fetch_data.log").symlink_to("/dev/full")

    def start() -> _Container:
        record.container_created(container.id)
        container.start()
        return _Container(engine, container, record)

    outputs = {"inputs": {}, "outputs": {"outputFile": str(tmp_path / "outputs/output.json")}}
    command = ["--executor_input", json.dumps(outputs), "--function_to_execute", "fetch_data"]
    with pytest.raises(StepError, match=r"fetch_data\.log: .* MB"):
        Session(record, Display(console, verbose=False), print).run_step(command, start)
    with pytest.raises(NotFound):
        container.reload()


# What is refused before anything starts


@pytest.fixture
def num_runs(project: Project) -> Iterator[int]:
    yield len(project.runs())


def test_no_engine(project: Project, num_runs: int) -> None:
    with project.exported({"DOCKER_HOST": "unix:///nowhere/docker.sock"}):
        output = project.call(*IN_DOCKER, status=2)
    assert "DOCKER_HOST" in output and "Traceback" not in output
    assert len(project.runs()) == num_runs


def test_images_that_are_not_built(
    project: Project, num_runs: int, engine: docker.DockerClient, images: dict[str, str]
) -> None:
    engine.api.tag(images["data"], "crossfold-test-kept", "data")
    engine.images.remove(images["data"])
    try:
        output = project.call(*IN_DOCKER, status=2)
    finally:
        repository, _, tag = images["data"].partition(":")
        engine.api.tag("crossfold-test-kept:data", repository, tag)
        engine.images.remove("crossfold-test-kept:data")
    assert f"the image {images['data']}" in output and "crossfold images" in output
    assert "Traceback" not in output
    assert len(project.runs()) == num_runs
