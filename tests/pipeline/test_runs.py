"""One project's life: run, run again, interrupted, killed, continued, an experiment, cleaned.

Every stage is a fixture that goes on from the one before; the tests stand in that order, so that
each sees the project as its stage has left it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pty
import re
import signal
import termios
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from filelock import FileLock

from crossfold.data.samples.digits import RANDOM_WEIGHTS
from crossfold.network import GRAPH_FILE, NETWORK_FILE, SETS_FILE

from .projects import NUM_FOLDS, STEPS, Project, alive, commit, titles, wait_until

CHANGE = ("--set", "training.num_epochs=1")
DONE_BEFORE = "done before the interruption"


@dataclass(frozen=True)
class Finished:
    """What a stage printed, and what it left where the next one writes."""

    output: str
    metrics: bytes
    run: dict[str, Any]

    @classmethod
    def of(cls, project: Project, output: str) -> "Finished":
        return cls(
            output, (project.root / "reports/last/metrics.json").read_bytes(), project.runs()[-1]
        )


@pytest.fixture(scope="module")
def project(new_project: Callable[[], Project]) -> Project:
    return new_project()


@pytest.fixture(scope="module")
def first(project: Project) -> Finished:
    """The first run, as DVC's stage."""
    finished = Finished.of(project, project.call("dvc", "repro"))
    commit(project)
    return finished


def test_a_run_shows_each_step_and_ends_with_a_summary(first: Finished) -> None:
    assert " INFO " not in first.output
    assert sorted(titles(first.output, "…")) == sorted(STEPS)
    assert sorted(titles(first.output, "✓")) == sorted(STEPS)
    metrics = json.loads(first.metrics)
    for candidate in ("fc lr=0.003 wd=0.1", "fc lr=0.0001 wd=0"):
        assert re.search(rf"{re.escape(candidate)}( +0\.\d{{4}} ± \d\.\d{{4}}){{2}}", first.output)
    assert f"→  {metrics['candidate']}" in first.output
    assert f"Chosen: {metrics['candidate']}, trained " in first.output
    assert "Test split, 40 images" in first.output
    test = metrics["test"]
    names = ("macro_f1", "accuracy", "macro_precision", "macro_recall", "loss", "mcc")
    assert re.search(" +".join(f"{test[name]:.4f}" for name in names), first.output)
    assert "crossfold version 1 (registered), aliases: challenger, champion" in first.output
    assert "Gate passed: " in first.output
    assert "Report:   reports/report.html\nMLflow:   crossfold mlflow-ui\n" in first.output
    assert f"0 of {len(STEPS)} steps from the cache" in first.output


def test_own_images_with_the_samples_weights_are_warned_of(
    project: Project, first: Finished
) -> None:
    """At the start, in the summary and in the report."""
    warning = f"! model.weights is {RANDOM_WEIGHTS}: random convolutions"
    before, after = first.output.split(warning)[::2]
    assert "fetch_data" not in before
    assert "fetch_data" not in after
    assert "random convolutions" in (project.root / "reports/report.html").read_text()


def test_a_run_leaves_its_reports_and_nothing_half_written(
    project: Project, first: Finished
) -> None:
    metrics = json.loads(first.metrics)
    assert metrics["cv"].keys() >= {"macro_f1", "macro_f1_std", "accuracy", "loss"}
    assert metrics["test"]["accuracy"] > 0.5  # a tenth is chance
    assert "<html" in (project.root / "reports/report.html").read_text()
    header, *issues = (project.root / "reports/label_issues.csv").read_text().splitlines()
    assert header == "path,label,suggested,label_probability,suggested_probability"
    assert re.search(rf"^Label errors: {len(issues)} image", first.output, re.MULTILINE)
    plots = {path.name for path in (project.root / "reports/plots").iterdir()}
    assert plots == {"confusion.csv", "learning_curves.csv", "pr.csv", "roc.csv"}
    assert project.unfinished_files() == []
    assert not (Path(first.run["folder"]) / "tmp").exists()


def test_every_step_leaves_its_log_and_its_record(project: Project, first: Finished) -> None:
    assert sorted(first.run["steps"]) == sorted(STEPS)
    assert (first.run["status"], first.run["processes"]) == ("finished", {})
    for title, folder in first.run["steps"].items():
        record = json.loads((Path(folder) / "step.json").read_text())
        assert record["status"] == "finished"
        assert record["run_id"] == first.run["id"]
        assert first.run["started"] < record["started"] < record["ended"]
        assert project.client().get_run(record["mlflow_run_id"]).info.run_name == title
        log = Path(first.run["folder"]) / f"{title.replace(' ', '-')}.log"
        assert log.read_text().strip()


def test_mlflow_has_one_parent_with_a_nested_run_for_each_step(
    project: Project, first: Finished
) -> None:
    kinds = [run.data.tags["crossfold.kind"] for run in project.mlflow_runs()]
    assert kinds.count("pipeline") == 1
    parent = project.parent(first.run["id"])
    assert re.fullmatch(r"\d{6} fc .*resnet18", str(parent.info.run_name))
    assert sorted(project.steps(parent)) == sorted(STEPS)
    assert {run.info.status for run in project.mlflow_runs()} == {"FINISHED"}
    assert not any("crossfold.cached" in run.data.tags for run in project.mlflow_runs())


def test_mlflow_has_a_run_for_each_candidate_of_each_fold(
    project: Project, first: Finished
) -> None:
    steps = project.steps(project.parent(first.run["id"]))
    for fold in range(NUM_FOLDS):
        candidates = project.nested(steps[f"train_fold {fold}"])
        assert {run.data.params["learning_rate"] for run in candidates} == {"0.003", "0.0001"}
        assert len(candidates) == 2
        for run in candidates:
            assert run.info.run_name == f"f{fold} {run.data.params['candidate']}"
            assert run.data.tags["crossfold.fold"] == str(fold)
            expected = {
                "architecture": "resnet18",
                "freeze_backbone": "False",
                "train_from": "fc",
                "device": "cpu",
                "num_epochs": "3",
                "batch_size": "32",
                "seed": "0",
            }
            assert expected.items() <= run.data.params.items()
            assert run.data.params.keys() >= {"weight_decay", "num_threads", "torch"}
            for split in ("train", "val"):
                for name in ("loss", "accuracy", "macro_f1"):
                    curve = project.client().get_metric_history(run.info.run_id, f"{split}_{name}")
                    assert [point.step for point in curve] == [1, 2, 3]


def test_the_parent_says_what_was_found(project: Project, first: Finished) -> None:
    parent = project.parent(first.run["id"])
    metrics = json.loads(first.metrics)
    found = {f"cv_{name}": value for name, value in metrics["cv"].items()}
    found |= {f"test_{name}": value for name, value in metrics["test"].items()}
    assert {name: parent.data.metrics[name] for name in found} == found
    assert parent.data.params["candidate"] == metrics["candidate"]
    assert parent.data.params["architecture"] == "resnet18"
    client, run_id = project.client(), parent.info.run_id
    figures = {file.path for file in client.list_artifacts(run_id, "plots")}
    names = ("confusion_matrix", "pr_curves", "roc_curves", "loss_curves", "score_curves")
    assert figures == {f"plots/{name}.png" for name in names}
    assert "report.html" in {file.path for file in client.list_artifacts(run_id)}


def test_mlflow_knows_the_data_by_the_hash_of_dvc(project: Project, first: Finished) -> None:
    steps = project.steps(project.parent(first.run["id"]))
    digests: dict[str, str] = {}
    for title in ("fetch_data", "fetch_weights resnet18"):
        inputs = steps[title].inputs
        assert inputs is not None
        digests |= {given.dataset.name: given.dataset.digest for given in inputs.dataset_inputs}
    weights = (project.root / "models" / RANDOM_WEIGHTS).read_bytes()
    pointer = yaml.safe_load((project.root / "data.dvc").read_text())
    assert digests == {
        "data": pointer["outs"][0]["md5"],
        "models": hashlib.md5(weights, usedforsecurity=False).hexdigest(),
    }


def test_the_data_has_a_page_in_mlflow(project: Project, first: Finished, tmp_path: Path) -> None:
    fetched = project.steps(project.parent(first.run["id"]))["fetch_data"]
    page = project.client().download_artifacts(fetched.info.run_id, "data.html", str(tmp_path))
    text = Path(page).read_text()
    assert "200 images of 10 classes" in text
    assert "Greyscale: all" in text
    assert {"num_near_duplicates", "num_near_duplicates_in_test"} <= fetched.data.metrics.keys()


def test_the_version_has_its_aliases_and_says_where_it_comes_from(
    project: Project, first: Finished
) -> None:
    (version,) = project.client().search_model_versions("name='crossfold'")
    version = project.client().get_model_version("crossfold", version.version)
    assert sorted(version.aliases) == ["challenger", "champion"]
    pointer = yaml.safe_load((project.root / "data.dvc").read_text())
    assert version.tags["data_hash"] == pointer["outs"][0]["md5"]
    assert version.tags["mlflow_parent_run"] == project.parent(first.run["id"]).info.run_id
    assert re.fullmatch("[0-9a-f]{64}", version.tags["weights_hash"])
    assert re.fullmatch("[0-9a-f]{40}", version.tags["git_commit"])
    assert version.tags["git_dirty"] == "false"
    assert version.tags["image_train"].startswith("crossfold-train:")
    assert json.loads(version.tags["settings"])["model"]["image_size"] == 32
    assert version.tags["gate"] == "passed"


def test_dvc_has_nothing_to_do_after_it(project: Project, first: Finished) -> None:
    assert "Data and pipelines are up to date." in project.call("dvc", "repro")
    assert project.runs() == [first.run]


def test_dvc_shows_the_plots(project: Project, first: Finished, tmp_path: Path) -> None:
    project.call("dvc", "plots", "show", "--out", str(tmp_path))
    page = (tmp_path / "index.html").read_text()
    for title in ("Confusion matrix", "ROC", "Precision and recall", "Validation loss"):
        assert title in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "changed"),
    [
        (("dvc", "repro", "--force"), ""),
        (("dvc", "exp", "run", "-S", CHANGE[1]), " M params.yaml\n"),  # by DVC itself
    ],
)
def test_a_refused_run_of_dvc_deletes_nothing(
    project: Project, first: Finished, command: tuple[str, ...], changed: str
) -> None:
    with FileLock(project.root / "runs/lock"):
        assert "another run uses" in project.call(*command, status=255)
    assert project.call("git", "status", "--porcelain") == changed
    project.call("git", "checkout", "--quiet", "params.yaml")


@pytest.mark.slow
def test_a_run_without_dvc_leaves_no_change_in_git(project: Project, again: Finished) -> None:
    assert (project.root / "reports/last/plots/roc.csv").exists()
    assert project.call("git", "status", "--porcelain") == ""


@pytest.fixture(scope="module")
def again(project: Project, first: Finished) -> Finished:
    """A run with nothing changed."""
    return Finished.of(project, project.call("crossfold", "run"))


def test_a_run_with_nothing_changed_is_answered_from_the_cache(
    first: Finished, again: Finished
) -> None:
    assert titles(again.output, "…") == ["register_model"]
    assert sorted(titles(again.output, "↺")) == sorted(set(STEPS) - {"register_model"})
    assert again.output.count(f"unchanged since run {first.run['id']}") == len(STEPS) - 1
    assert f"{len(STEPS) - 1} of {len(STEPS)} steps from the cache" in again.output
    assert "crossfold version 1 (registered before, the same weights)" in again.output
    assert again.metrics == first.metrics


def test_mlflow_says_which_steps_were_answered_from_the_cache(
    project: Project, first: Finished, again: Finished
) -> None:
    before = project.steps(project.parent(first.run["id"]))
    parent = project.parent(again.run["id"])
    steps = project.steps(parent)
    assert sorted(steps) == sorted(STEPS)
    assert parent.data.metrics == project.parent(first.run["id"]).data.metrics
    for title, run in steps.items():
        if title == "register_model":
            assert "crossfold.cached" not in run.data.tags
        else:
            assert run.data.tags["crossfold.cached"] == "true"
            assert run.data.tags["crossfold.source_run"] == before[title].info.run_id
            assert run.data.metrics == before[title].data.metrics
    assert len(project.client().search_model_versions("name='crossfold'")) == 1


@pytest.fixture(scope="module")
def uncached(project: Project, again: Finished) -> Finished:
    """A run that does everything again."""
    return Finished.of(project, project.call("crossfold", "run", "--no-cache"))


@pytest.mark.slow
def test_a_run_without_the_cache_gives_the_same_numbers_and_weights(
    project: Project, first: Finished, uncached: Finished
) -> None:
    assert titles(uncached.output, "↺") == []
    assert sorted(titles(uncached.output, "✓")) == sorted(STEPS)
    assert uncached.metrics == first.metrics
    assert "crossfold version 1 (registered before, the same weights)" in uncached.output
    one, other = (
        Path(finished.run["steps"]["train_final"]) / "model" for finished in (first, uncached)
    )
    assert one != other
    for name in (NETWORK_FILE, GRAPH_FILE, SETS_FILE):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.slow
def test_a_run_in_shards_gives_the_same_numbers(
    project: Project, first: Finished, uncached: Finished
) -> None:
    run = Finished.of(project, project.call("crossfold", "run", "--set", "extraction.shards=2"))
    assert titles(run.output, "↺") == ["fetch_data"]
    extracting = ("fetch_weights resnet18", "extract_features resnet18")
    shards = [*(f"{title} {shard}" for title in extracting for shard in (0, 1)), "join_features"]
    assert sorted(titles(run.output, "✓")) == sorted([*shards, *STEPS[3:]])
    assert run.metrics == first.metrics
    names = {step.info.run_name for step in project.mlflow_runs() if step.info.run_name}
    assert set(shards) <= names


@pytest.fixture(scope="module")
def interrupted(project: Project, uncached: Finished) -> Finished:
    """Another number of epochs, and Ctrl-C as soon as a fold is at work."""
    return stop_run(project, signal.SIGINT, *CHANGE)


def stop_run(project: Project, signum: int, *options: str) -> Finished:
    """Start a run, send it a signal as two folds are at work, and see that nothing is left."""
    with project.started("crossfold", "run", *options) as process:
        lines = project.wait_for_step(process, "train_fold")
        wait_until(lambda: len(project.runs()[-1]["processes"]) == 2)
        process.send_signal(signum)
        rest, _ = process.communicate()
    output = "".join(lines) + rest
    assert process.returncode == 128 + signum, output
    assert project.processes() == []
    assert "Traceback" not in output
    assert rest.count("error: ") == 1
    assert "error: interrupted; " in rest and "`crossfold run`" in rest
    return Finished.of(project, output)


def assert_killed_in_mlflow(project: Project, run: dict[str, Any]) -> None:
    assert run["status"] == "interrupted"
    assert project.parent(run["id"]).info.status == "KILLED"
    assert "RUNNING" not in {run.info.status for run in project.mlflow_runs()}


@pytest.mark.slow
def test_a_changed_setting_repeats_only_the_steps_that_read_it(
    first: Finished, interrupted: Finished
) -> None:
    assert {*titles(interrupted.output, "↺")} == {*STEPS[:3]}
    assert titles(interrupted.output, "…")[0].startswith("train_fold")
    assert interrupted.output.count(f"unchanged since run {first.run['id']}") == 3


@pytest.mark.slow
def test_ctrl_c_ends_every_process_and_is_recorded(
    project: Project, uncached: Finished, interrupted: Finished
) -> None:
    assert_killed_in_mlflow(project, interrupted.run)
    assert interrupted.metrics == uncached.metrics  # the reports are still the last whole run's
    assert not (Path(interrupted.run["folder"]) / "tmp").exists()


@dataclass(frozen=True)
class Orphaned:
    """What a killed run has left."""

    run: dict[str, Any]
    orphans: list[psutil.Process]
    records: list[dict[str, Any]]


@pytest.fixture(scope="module")
def killed(project: Project, interrupted: Finished) -> Orphaned:
    """The same again, killed as the last fold begins: another one is finished then."""
    with project.started("crossfold", "run", *CHANGE) as process:
        project.wait_for_step(process, f"train_fold {NUM_FOLDS - 1}")
        # From its record on, a step has left the fork server, which else would not end before it.
        wait_until(lambda: last_fold_at_work(project))
        process.send_signal(signal.SIGSTOP)  # it takes note of no more
        run = project.runs()[-1]
        pids = [int(pid) for pid in run["processes"]]
        steps = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
        for step in steps:
            with contextlib.suppress(psutil.NoSuchProcess):
                step.suspend()  # or its work is done before the next run comes
        # A step that was already ending cannot be suspended, and is no orphan.
        wait_until(lambda: all(step.status() == psutil.STATUS_STOPPED for step in alive(steps)))
        orphans = alive(steps)
        process.kill()
    # Only the steps: what forked them ends with the run, however it ends.
    wait_until(lambda: set(project.processes()) == set(orphans))
    assert orphans
    return Orphaned(run, orphans, project.records())


def last_fold_at_work(project: Project) -> bool:
    """Whether the last fold has begun, and not ended."""
    last = {"step": "train_fold", "iteration": NUM_FOLDS - 1, "status": "running"}
    return any(last.items() <= record.items() for record in project.records())


@pytest.fixture(scope="module")
def continued(project: Project, killed: Orphaned) -> Finished:
    """The run after that one."""
    assert alive(killed.orphans) == killed.orphans
    return Finished.of(project, project.call("crossfold", "run", *CHANGE))


@pytest.mark.slow
def test_the_next_run_ends_the_processes_that_a_killed_one_left(
    killed: Orphaned, continued: Finished
) -> None:
    assert killed.run["status"] == "running"
    assert alive(killed.orphans) == []
    assert continued.run["processes"] == {}


@pytest.mark.slow
def test_a_continued_run_repeats_no_finished_step(
    project: Project, interrupted: Finished, killed: Orphaned, continued: Finished
) -> None:
    assert continued.run["id"] == killed.run["id"] == interrupted.run["id"]
    # What the killed run had taken note of, and perhaps what ended in the moment of its death.
    kept = set(titles(continued.output, "↺"))
    finished = [step for step in killed.run["steps"] if step not in STEPS[:3]]
    assert finished
    assert set(killed.run["steps"]) <= kept
    for title in finished:
        assert re.search(rf"^↺ {title} +{DONE_BEFORE}$", continued.output, re.MULTILINE)
    assert sorted(titles(continued.output, "✓")) == sorted(set(STEPS) - kept)
    done = [record for record in killed.records if record["status"] == "finished"]
    after = project.records()
    assert all(record in after for record in done)
    num_finished = len([record for record in after if record["status"] == "finished"])
    assert num_finished == len(done) + len(STEPS) - len(kept)
    assert f"3 of {len(STEPS)} steps from the cache" in continued.output


@pytest.mark.slow
def test_a_continued_run_goes_on_in_its_parent(project: Project, continued: Finished) -> None:
    parent = project.parent(continued.run["id"])
    steps = project.steps(parent)
    assert sorted(steps) == sorted(STEPS)
    assert {run.info.status for run in (parent, *steps.values())} == {"FINISHED"}
    cached = {title for title, run in steps.items() if "crossfold.cached" in run.data.tags}
    assert cached == {*STEPS[:3]}
    for fold in range(NUM_FOLDS):
        assert len(project.nested(steps[f"train_fold {fold}"])) == 2
    assert project.unfinished_files() == []


@pytest.fixture(scope="module")
def experiment(project: Project, first: Finished, continued: Finished) -> Finished:
    """The same change as an experiment of DVC, so that the cache has the answers."""
    output = project.call("dvc", "exp", "run", "-S", CHANGE[1])
    return Finished.of(project, output)


@pytest.mark.slow
def test_an_experiment_of_dvc_changes_a_metric(
    project: Project, first: Finished, continued: Finished, experiment: Finished
) -> None:
    assert f"{len(STEPS) - 1} of {len(STEPS)} steps from the cache" in experiment.output
    # A killed and continued run has the numbers that an undisturbed one has.
    assert experiment.metrics == continued.metrics
    changed = json.loads(project.call("dvc", "metrics", "diff", "--json"))
    before, after = json.loads(first.metrics), json.loads(experiment.metrics)
    assert before["test"]["loss"] != after["test"]["loss"]
    difference = changed["reports/metrics.json"]["test.loss"]
    assert (difference["old"], difference["new"]) == (
        before["test"]["loss"],
        after["test"]["loss"],
    )


@pytest.mark.slow
def test_an_experiment_in_a_temporary_copy_is_refused_with_the_reason(
    project: Project, experiment: Finished
) -> None:
    output = project.call("dvc", "exp", "run", "--temp", "-S", "training.num_epochs=2", status=255)
    assert "--temp" in output
    assert "Run `dvc exp run` without these options" in output


@pytest.fixture(scope="module")
def terminated(project: Project, experiment: Finished) -> Finished:
    """Another learning rate, and SIGTERM as soon as a fold is at work."""
    change = "candidates.0.learning_rate=0.01"
    return stop_run(project, signal.SIGTERM, *CHANGE, "--set", change)


@pytest.mark.slow
def test_sigterm_ends_every_process_and_is_recorded(project: Project, terminated: Finished) -> None:
    assert {*titles(terminated.output, "↺")} == {*STEPS[:3]}
    assert_killed_in_mlflow(project, terminated.run)


@pytest.mark.slow
def test_a_closed_terminal_ends_every_process_and_is_recorded(
    project: Project, terminated: Finished
) -> None:
    ours, theirs = pty.openpty()
    with project.started(
        "crossfold",
        "run",
        "--no-cache",
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:
        os.close(theirs)
        shown = b""
        while b"fetch_data" not in shown:
            shown += os.read(ours, 4096)
        wait_until(lambda: project.runs()[-1]["processes"])
        os.close(ours)
        process.wait()
    wait_until(lambda: project.processes() == [])
    assert process.returncode == 128 + signal.SIGHUP
    assert_killed_in_mlflow(project, project.runs()[-1])


@pytest.mark.slow
def test_a_closed_pipe_ends_the_run_and_is_recorded(project: Project, terminated: Finished) -> None:
    with project.started("crossfold", "run", "--no-cache") as process:
        project.wait_for_step(process, "fetch_data")
        assert process.stdout is not None
        process.stdout.close()
        process.wait()
    run = project.runs()[-1]
    assert process.returncode != 0
    wait_until(lambda: project.processes() == [])
    assert run["status"] in ("failed", "interrupted")
    assert project.parent(run["id"]).info.status in ("FAILED", "KILLED")


@pytest.fixture(scope="module")
def cleaned(project: Project, experiment: Finished) -> str:
    return project.call("crossfold", "clean", "--keep", "1")


@pytest.mark.slow
def test_clean_frees_what_old_runs_have_left(
    project: Project, first: Finished, uncached: Finished, experiment: Finished, cleaned: str
) -> None:
    freed = re.match(r"(\d+\.\d) MB freed", cleaned)
    assert freed
    assert float(freed[1]) > 50  # two networks of 44 MB among others
    kept = [run["id"] for run in project.runs()]
    assert experiment.run["id"] in kept
    assert first.run["id"] not in kept
    assert not Path(uncached.run["steps"]["train_final"]).exists()
    # The last run was answered with what the first one extracted.
    assert Path(first.run["steps"]["extract_features resnet18"]).exists()
    assert not Path(first.run["steps"]["train_final"]).exists()


@pytest.fixture(scope="module")
def moved(project: Project, cleaned: str) -> Path:
    """The project's folder before the user gave it another name."""
    before = project.root
    project.root = before.rename(before.with_name("renamed"))
    return before


@pytest.mark.slow
def test_after_clean_and_a_move_a_run_is_still_answered_from_the_cache(
    project: Project, moved: Path
) -> None:
    output = project.call("crossfold", "run")
    assert f"{len(STEPS) - 1} of {len(STEPS)} steps from the cache" in output
    assert "(registered before, the same weights)" in output
    assert not moved.exists()


@pytest.mark.slow
def test_after_clean_and_a_move_registered_models_still_predict(
    project: Project, moved: Path
) -> None:
    image = first_image(project, "7")
    for model in ("crossfold@champion", "crossfold/1"):
        output = project.call("crossfold", "predict", image, "--model", model)
        assert re.fullmatch(rf"{image}\t\d\t[01]\.\d{{4}}\tcrossfold/\d+\n", output)


def first_image(project: Project, label: str) -> str:
    return str(min((project.root / "data" / label).iterdir()).relative_to(project.root))


def test_predict_gives_a_row_for_each_image_and_fails_for_a_broken_one(
    project: Project, first: Finished
) -> None:
    images = [first_image(project, label) for label in "01"]
    (project.root / "broken.png").write_bytes(b"no image")
    output = project.call("crossfold", "predict", images[0], "broken.png", images[1], status=1)
    rows = output.splitlines()
    assert [row.split("\t")[0] for row in rows[:3]] == [images[0], "broken.png", images[1]]
    assert rows[0].split("\t")[1] == "0"
    assert not re.search(r"\t\d\t", rows[1])
    assert rows[3:] == ["error: 1 of 3 images cannot be used"]
