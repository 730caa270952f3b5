"""Old runs in a real MLflow store: which may go, and that only they are gone afterwards."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow.entities import LifecycleStage, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from crossfold.cli import clean_mlflow
from crossfold.errors import UserError
from crossfold.infra.services import compose_project
from crossfold.infra.services.compose import ENVIRONMENT, write_environment
from crossfold.infra.services.compose_project import ComposeProject
from crossfold.infra.services.run_deletion import delete_from_services, services_at
from crossfold.tracking import run_tree, store
from crossfold.tracking.run import Run
from crossfold.tracking.unused_runs import unused_trees

SOURCE = Path(__file__).parents[4]
UNUSED = ("old", "failed")


@dataclass(frozen=True)
class History:
    """Pipeline runs in a project's store: each with a step, which has a file and a model."""

    root: Path
    client: MlflowClient
    parents: dict[str, Run]
    steps: dict[str, str]
    models: dict[str, str]

    @property
    def experiment_id(self) -> str:
        return self.parents["old"].experiment_id

    @property
    def files(self) -> dict[str, int]:
        """How many files each pipeline run has in the folder of artifacts."""
        folder = self.root / "runs/mlartifacts"
        paths = [str(path) for path in folder.rglob("*") if path.is_file()]
        return {
            name: len([path for path in paths if self.steps[name] in path or model in path])
            for name, model in self.models.items()
        }


@pytest.fixture
def history(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    (tmp_path / "runs").mkdir()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/weights.bin").write_bytes(b"weights")
    shutil.copy(SOURCE / "params.yaml", tmp_path)
    shutil.copy(empty_store, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "crossfold")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    history = History(tmp_path, store.connect(), {}, {}, {})
    for name in ("old", "registered", "source", "open", "failed", "last"):
        monkeypatch.setenv("CROSSFOLD_RUN_ID", name)
        _add(history, name)
    history.client.create_registered_model("digits")
    version = f"models:/{history.models['registered']}"
    history.client.create_model_version("digits", version, history.steps["registered"])
    history.client.set_tag(history.steps["last"], "crossfold.source_run", history.steps["source"])
    for name in history.parents:
        status = {"open": "RUNNING", "failed": "FAILED"}.get(name, "FINISHED")
        history.client.update_run(history.parents[name].id, status=status)
    return history


def _add(history: History, name: str) -> None:
    history.parents[name] = run_tree.parent_run(name, name=name)
    with run_tree.step_run("register_model") as step:
        step.log_artifact("of the run", "file.txt")
    history.steps[name] = step.id
    model = history.client.create_logged_model(step.experiment_id, name, source_run_id=step.id)
    history.models[name] = model.model_id
    history.client.log_model_artifacts(model.model_id, str(history.root / "weights"))


def test_runs_that_something_refers_to_or_that_are_new_or_open_stay(history: History) -> None:
    unused = unused_trees(history.client, history.experiment_id, keep=1)
    assert [tree.root.info.run_name for tree in unused] == list(UNUSED)
    for tree, name in zip(unused, UNUSED, strict=True):
        assert tree.run_ids == [history.steps[name], history.parents[name].id]
        assert tree.models == (history.models[name],)
    assert unused_trees(history.client, history.experiment_id, keep=5) == []


def test_a_run_that_others_logged_to_stays(history: History) -> None:
    foreign = history.client.create_run(history.experiment_id, start_time=1)
    history.client.set_terminated(foreign.info.run_id)
    unused = unused_trees(history.client, history.experiment_id, keep=1)
    assert foreign.info.run_id not in {run for tree in unused for run in tree.run_ids}


def test_what_another_experiment_took_from_the_cache_stays_with_its_own_sources(
    history: History,
) -> None:
    elsewhere = history.client.create_experiment("another")
    taken = {"crossfold.source_run": history.steps["failed"]}
    history.client.create_run(elsewhere, tags=taken)
    history.client.set_tag(history.steps["failed"], "crossfold.source_run", history.steps["old"])
    assert unused_trees(history.client, history.experiment_id, keep=1) == []


def test_only_what_was_listed_is_deleted(history: History) -> None:
    client = history.client
    in_trash = client.create_experiment("in the trash")
    run_in_trash = client.create_run(in_trash).info.run_id
    client.delete_experiment(in_trash)
    deleted_by_hand = client.create_run(history.experiment_id).info.run_id
    client.delete_run(deleted_by_hand)

    clean_mlflow.clean_mlflow(keep=1)
    assert set(history.files.values()) == {2}
    clean_mlflow.clean_mlflow(keep=1, delete=True)

    assert {name for name, number in history.files.items() if number == 0} == set(UNUSED)
    assert {history.files[name] for name in history.files if name not in UNUSED} == {2}
    for name in UNUSED:
        for run in (history.parents[name].id, history.steps[name]):
            with pytest.raises(MlflowException, match=run):
                client.get_run(run)
    for run in (run_in_trash, deleted_by_hand):
        assert client.get_run(run).info.lifecycle_stage == LifecycleStage.DELETED
    names = {run.info.run_name for run in client.search_runs([history.experiment_id])}
    assert names == {"register_model", *history.parents} - set(UNUSED)
    assert len(client.search_logged_models([history.experiment_id])) == 4


def test_runs_that_were_marked_but_not_purged_are_found_again(history: History) -> None:
    """As after a deletion that was killed."""
    (tree, *_) = unused_trees(history.client, history.experiment_id, keep=1)
    for run in tree.run_ids:
        history.client.delete_run(run)
    clean_mlflow.clean_mlflow(keep=1, delete=True)
    found = history.client.search_runs([history.experiment_id], run_view_type=ViewType.ALL)
    assert not {run.info.run_id for run in found} & set(tree.run_ids)


def test_the_script_goes_to_the_running_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`compose` is a program that keeps what it gets."""
    compose = tmp_path / "compose"
    compose.write_text('#!/bin/sh\necho "$@" > arguments\ncat > script\n')
    compose.chmod(0o755)
    monkeypatch.setattr(compose_project, "image_name", lambda _: "crossfold-mlflow")
    project = ComposeProject(tmp_path, (str(compose),), {})
    delete_from_services(project, ["a1"], ["m-b2"])
    assert (tmp_path / "arguments").read_text() == "exec -T mlflow python3 -\n"
    assert "delete_in_server(['a1'], ['m-b2'])" in (tmp_path / "script").read_text()


def test_runs_of_another_server_are_not_deleted(tmp_path: Path) -> None:
    for port in (None, 5001):
        if port:
            write_environment(tmp_path / ENVIRONMENT, mlflow_port=port)
        with pytest.raises(UserError, match=r"http://10\.0\.0\.1:5001"):
            services_at(tmp_path, "http://10.0.0.1:5001")
