"""The registry's commands on the versions of real runs: reproduced, judged, promoted, taken back.

Every stage is a fixture that goes on from the one before, as in test_runs.
"""

import json
import shutil
import signal
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from .projects import SOURCE, STEPS, Project, commit, titles

pytestmark = pytest.mark.slow

# So small that the classifier stays as it began: surely worse than any that has learned.
UNTRAINED = (
    "--set",
    "candidates.0.learning_rate=0.000001",
    "--set",
    "candidates.1.learning_rate=0.000002",
)


@pytest.fixture(scope="module")
def project(new_project: Callable[[], Project]) -> Project:
    """A project with a champion, its version 1; the floor lets every model through."""
    project = new_project()
    settings = yaml.safe_load((project.root / "params.yaml").read_text())
    settings["gate"]["min_macro_f1"] = 0.0
    (project.root / "params.yaml").write_text(yaml.safe_dump(settings))
    shutil.copytree(SOURCE / "images", project.root / "images")  # the code there names them
    shutil.copy(SOURCE / ".dockerignore", project.root)
    # Not over the network: the other remotes are servers.
    sample = "[core]\n    remote = sample\n['remote \"sample\"']\n    url = ../dvc-remote\n"
    (project.root / ".dvc/config").write_text(sample)
    commit(project)
    project.call("crossfold", "run")
    return project


def lineage(project: Project, version: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(project.call("crossfold", "lineage", version, "--json"))
    return found


def tags(project: Project, number: str) -> dict[str, str]:
    found: dict[str, str] = project.client().get_model_version("crossfold", number).tags
    return found


def champion(project: Project) -> str:
    return str(project.client().get_registered_model("crossfold").aliases["champion"])


def tag(project: Project, key: str, value: str) -> None:
    project.client().set_model_version_tag("crossfold", "1", key, value)


def assert_nothing_is_left(project: Project) -> None:
    assert list((project.root / "runs/reproduce").iterdir()) == []
    assert len(project.call("git", "worktree", "list").splitlines()) == 1
    assert project.processes() == []


def test_a_version_tells_its_lineage(project: Project) -> None:
    found = lineage(project, "@champion")
    assert found == lineage(project, "crossfold/1")
    assert found["git_commit"] == project.call("git", "rev-parse", "HEAD").strip()
    assert (found["git_dirty"], found["runner"], found["gate_verdict"]) == (
        "false",
        "local",
        "first",
    )
    assert found["settings"]["data"]["num_folds"] == 3
    assert found["pipeline_run"] == project.runs()[0]["id"]
    pointer = yaml.safe_load((project.root / "models.dvc").read_text())
    assert found["models_hash"] == pointer["outs"][0]["md5"]
    assert found.keys() >= {"processor_kernels", "torch", "num_threads", "libraries", "split_hash"}
    table = project.call("crossfold", "lineage", "1")
    for text in (found["git_commit"], "training.num_epochs", "libraries.torch"):
        assert text in table


@pytest.fixture(scope="module")
def reproduced(project: Project) -> str:
    """What a reproduction prints that comes out the same."""
    before = tags(project, "1")
    output = project.call("crossfold", "reproduce", "@champion")
    assert tags(project, "1") == before
    return output


def test_a_version_is_reproduced_to_the_last_digit(project: Project, reproduced: str) -> None:
    assert sorted(titles(reproduced, "✓")) == sorted(STEPS)
    assert "The same, weights and scores to the last digit" in reproduced
    assert (
        "Threads, processor kernels, torch build, libraries and code are as recorded" in reproduced
    )
    assert tags(project, "1")["test_loss"] in reproduced
    assert "different" not in reproduced


def test_a_reproduction_leaves_nothing_and_registers_nothing(
    project: Project, reproduced: str
) -> None:
    assert_nothing_is_left(project)
    assert len(project.client().search_model_versions("name='crossfold'")) == 1
    assert [found.name for found in project.client().search_registered_models()] == ["crossfold"]
    assert len(project.runs()) == 1


def test_what_differs_is_named_and_ends_in_1(project: Project, reproduced: str) -> None:
    before = tags(project, "1")
    settings = json.loads(before["settings"])
    settings["training"]["seed"] = 7  # as if the record lied
    tag(project, "settings", json.dumps(settings))
    tag(project, "processor_kernels", "an abacus")
    tag(project, "git_dirty", "true")
    output = project.call("crossfold", "reproduce", "1", "--keep", status=1)
    assert "uncommitted changes" in output
    (differing,) = (line for line in output.splitlines() if line.startswith("Different:"))
    assert "weights_hash" in differing
    assert "test_loss" in differing
    assert "split_hash" not in differing
    (kernels,) = (line for line in output.splitlines() if line.startswith("processor kernels"))
    assert "an abacus" in kernels
    assert before["processor_kernels"] in kernels
    (kept,) = (project.root / "runs/reproduce").iterdir()
    assert (kept / "worktree/runs/mlflow.db").exists()
    project.call("git", "worktree", "remove", "--force", str(kept / "worktree"))
    for left in kept.iterdir():
        left.unlink()
    kept.rmdir()
    for key in ("settings", "processor_kernels", "git_dirty"):
        tag(project, key, before[key])


def test_an_interrupted_reproduction_leaves_nothing(project: Project, reproduced: str) -> None:
    with project.started("crossfold", "reproduce", "1") as process:
        project.wait_for_step(process, "train_fold")
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert "error: interrupted; " in rest
    assert "Traceback" not in rest
    assert_nothing_is_left(project)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("git_commit", "0" * 40, "is not in this repository: `git fetch --all`"),
        ("data_hash", "0" * 32 + ".dir", "DVC's cache"),
    ],
)
def test_a_version_whose_origin_is_gone_is_refused(
    project: Project, key: str, value: str, said: str
) -> None:
    before = tags(project, "1")[key]
    tag(project, key, value)
    assert said in project.call("crossfold", "reproduce", "1", status=2)
    assert_nothing_is_left(project)
    tag(project, key, before)


@pytest.fixture(scope="module")
def worse(project: Project) -> str:
    """A run that registers a worse version, 2."""
    return project.call("crossfold", "run", *UNTRAINED)


def test_a_worse_version_is_refused_with_the_statistics(project: Project, worse: str) -> None:
    assert "crossfold version 2 (registered), aliases: challenger\n" in worse
    assert "Gate refused: " in worse
    assert "is worse than version 1, the champion" in worse
    assert "on the same 40 test images" in worse
    assert "95 % interval -" in worse
    assert tags(project, "2")["num_judged_before"] == "1"
    listed = json.loads(project.call("crossfold", "models", "--json"))
    assert [(row["version"], row["verdict"]) for row in listed] == [("2", "worse"), ("1", "first")]


def test_promotion_is_refused_for_a_worse_version(project: Project, worse: str) -> None:
    output = project.call("crossfold", "promote", "2", "--yes", status=1)
    assert "Worse: macro F1 0." in output
    assert "error: crossfold version 2 " in output
    assert champion(project) == "1"
    assert "--reason TEXT" in project.call("crossfold", "promote", "2", "--force", status=2)


@pytest.fixture(scope="module")
def forced(project: Project, worse: str) -> str:
    reason = ("--force", "--reason", "a drill")
    return project.call("crossfold", "promote", "2", "--yes", *reason)


def test_a_forced_promotion_is_recorded(project: Project, forced: str) -> None:
    assert "crossfold version 2 is champion; version 1 is the former one" in forced
    assert champion(project) == "2"
    (entry,) = json.loads(tags(project, "2")["promotions"])
    assert (entry["reason"], entry["forced"], entry["verdict"]) == ("a drill", True, "worse")
    assert entry["by"]


def test_promotion_is_granted_for_a_better_version(project: Project, forced: str) -> None:
    assert "--yes" in project.call("crossfold", "promote", "1", status=2)
    output = project.call("crossfold", "promote", "1", "--yes")
    assert "Better: macro F1 0." in output
    assert "is better than version 2, the champion" in output
    assert "crossfold version 1 is champion; version 2 is the former one" in output
    assert champion(project) == "1"


def test_a_rollback_takes_the_champion_back(project: Project, forced: str) -> None:
    assert "--reason TEXT" in project.call("crossfold", "rollback", "--yes", status=2)
    output = project.call("crossfold", "rollback", "--yes", "--reason", "another drill")
    assert "crossfold version 2 is champion; version 1 is the former one" in output
    assert json.loads(tags(project, "1")["rolled_back"])["reason"] == "another drill"
    again = project.call("crossfold", "run")
    assert "crossfold version 1 (registered before, the same weights)" in again
    assert "Gate refused: version 1 was taken back by" in again
    assert champion(project) == "2"


def test_the_versions_are_listed(project: Project, forced: str) -> None:
    rows = project.call("crossfold", "models").splitlines()
    assert rows[0].split()[:3] == ["aliases", "created", "candidate"]
    assert max(len(row) for row in rows) <= 80
    assert "no version" not in "".join(rows)
