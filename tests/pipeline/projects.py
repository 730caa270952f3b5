"""Projects as a user has them, each in a git repository of its own, and the real commands."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

from crossfold.data.samples.digits import (
    DIGITS_MODEL,
    RANDOM_WEIGHTS,
    digit_bitmap,
    random_resnet18,
)

SOURCE = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent
CODE = ("crossfold", "components", "pipelines", "requirements")
POINTERS = ("data.dvc", "models.dvc")
NUM_IMAGES = 20  # of each class
NUM_FOLDS = 3
STEPS = (
    "fetch_data",
    "fetch_weights resnet18",
    "extract_features resnet18",
    *(f"train_fold {fold}" for fold in range(NUM_FOLDS)),
    "aggregate_cv",
    "diagnose_data",
    "train_final",
    "evaluate_test",
    "register_model",
)


def environment() -> dict[str, str]:
    """Return what a user's shell has: no store or remote that this machine may have set."""
    own = ("MLFLOW_", "DVC_", "CROSSFOLD_", "GIT_", "AWS_", "GDRIVE_")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(own)},
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{f"GIT_{role}_NAME": "Tester" for role in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{role}_EMAIL": "tester@example.org" for role in ("AUTHOR", "COMMITTER")},
    }


class Project:
    """A project's folder, the commands in it, and what its runs have left."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._exported: Mapping[str, str] = {}

    @contextlib.contextmanager
    def exported(self, variables: Mapping[str, str]) -> Iterator[None]:
        """Let the commands of the block have more variables in their environment."""
        before, self._exported = self._exported, variables
        try:
            yield
        finally:
            self._exported = before

    def call(self, *command: str, status: int | None = 0) -> str:
        """Run a command to its end and return what it printed, errors last.

        `status` is what it must end with; None for any.
        """
        done = subprocess.run(
            command,
            cwd=self.root,
            env={**environment(), **self._exported},
            capture_output=True,
            text=True,
            timeout=900,  # one that should end and does not is stopped, and fails
            check=False,
        )
        output = done.stdout + done.stderr
        assert status in (None, done.returncode), output
        return output

    @contextlib.contextmanager
    def started(self, *command: str, **options: Any) -> Iterator["subprocess.Popen[str]"]:
        """Start a command whose output the caller reads; it is ended with the block."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(
            command,
            cwd=self.root,
            env={**environment(), **self._exported},
            text=True,
            **(pipes | options),
        ) as process:
            try:
                yield process
            finally:
                process.terminate()

    def runs(self) -> list[dict[str, Any]]:
        """Return the content of each run.json, oldest first, with where its folders are."""
        found = [self._read_run(path) for path in self.root.glob("runs/*/run.json")]
        return sorted(found, key=lambda run: float(run["started"]))

    def _read_run(self, path: Path) -> dict[str, Any]:
        run: dict[str, Any] = json.loads(path.read_text())
        steps = {title: str(self.root / "runs" / step) for title, step in run["steps"].items()}
        return {**run, "folder": str(path.parent), "steps": steps}

    def client(self) -> MlflowClient:
        """Return a client of the local MLflow store."""
        store = f"sqlite:///{self.root / 'runs' / 'mlflow.db'}"
        return MlflowClient(tracking_uri=store, registry_uri=store)

    def mlflow_runs(self) -> list[Run]:
        """Return all runs in MLflow, oldest first."""
        client = self.client()
        experiment = client.get_experiment_by_name("crossfold")
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
        return list(found)

    def parent(self, run_id: str) -> Run:
        """Return the one run in MLflow of a pipeline run."""
        (parent,) = (
            run
            for run in self.mlflow_runs()
            if run.data.tags["crossfold.kind"] == "pipeline"
            and run.data.tags["crossfold.run_id"] == run_id
        )
        return parent

    def nested(self, parent: Run) -> list[Run]:
        """Return the runs that are nested directly in a run."""
        return [
            run
            for run in self.mlflow_runs()
            if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
        ]

    def steps(self, parent: Run) -> dict[str, Run]:
        """Return the steps' runs in a pipeline's run, by title."""
        nested = []
        for run in self.nested(parent):
            is_loop = run.data.tags["crossfold.kind"] == "loop"
            nested += self.nested(run) if is_loop else [run]
        steps = {str(run.info.run_name): run for run in nested}
        assert len(steps) == len(nested), "two runs of one step"
        return steps

    def records(self) -> list[dict[str, Any]]:
        """Return the content of each step.json."""
        return [json.loads(path.read_text()) for path in self.root.rglob("runs/**/step.json")]

    def processes(self) -> list[psutil.Process]:
        """Return what is at work in the project's folder, whoever its parent is now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(self.root):
                    found.append(process)
        return alive(found)

    def unfinished_files(self) -> list[Path]:
        """Return what was being written and never completed."""
        files = [path for path in self.root.rglob("*.part") if ".dvc" not in path.parts]
        return files + list(self.root.glob(".reports-*"))

    def wait_for_step(self, process: "subprocess.Popen[str]", title: str) -> list[str]:
        """Read a run's output until a step is at work; return the lines."""
        lines = []
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("…") and line[1:].strip().startswith(title):
                break
        else:
            raise AssertionError(f"{title} did not start:\n{''.join(lines)}")
        return lines


def titles(output: str, sign: str) -> list[str]:
    """Return the titles of the steps that a run marked with a sign."""
    lines = re.findall(rf"^{sign} (\S+(?: \S+)*)", output, re.MULTILINE)
    return [str(title) for title in lines]


def wait_until(condition: Callable[[], Any]) -> None:
    """Wait for what another process does; a minute is far more than it takes."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that have not ended; a zombie has."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def write_project(root: Path) -> Project:
    """Write a small project: code, settings, images and weights, added to DVC and committed."""
    root.mkdir()
    for name in (*CODE, ".dvc/plots"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(SOURCE / name, root / name, ignore=ignored)
    for name in (".dvc/config", ".dvcignore", ".gitignore", "dvc.yaml", "pyproject.toml"):
        shutil.copy(SOURCE / name, root / name)
    (root / "params.yaml").write_text(yaml.safe_dump(small_settings(), sort_keys=False))
    digits = load_digits()
    for label in range(10):
        folder = root / "data" / str(label)
        folder.mkdir(parents=True)
        for index in (digits.target == label).nonzero()[0][:NUM_IMAGES]:
            (folder / f"{index:04}.bmp").write_bytes(digit_bitmap(digits.images[index]))
    (root / "models").mkdir()
    save_file(dict(random_resnet18()), root / "models" / RANDOM_WEIGHTS)
    project = Project(root)
    project.call("git", "init", "--quiet")
    project.call("dvc", "add", "data", "models")
    commit(project)
    return project


def sample_project(root: Path) -> Project:
    """Write a project with the settings that are shipped, and the sample."""
    root.mkdir()
    for name in (
        ".dvc/config",
        ".dvcignore",
        ".gitignore",
        "params.yaml",
        "data.dvc",
        "models.dvc",
    ):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(SOURCE / name, root / name)
    project = Project(root)
    project.call("git", "init", "--quiet")
    project.call("crossfold", "sample")
    return project


def small_settings() -> dict[str, Any]:
    """Return params.yaml with the digits' network and what makes a run quick."""
    settings: dict[str, Any] = yaml.safe_load((SOURCE / "params.yaml").read_text())
    settings["data"].update(num_folds=NUM_FOLDS)
    settings["model"].update(DIGITS_MODEL)
    settings["candidates"] = [
        {"train_from": "fc", "learning_rate": 0.003, "weight_decay": 0.1},
        {"train_from": "fc", "learning_rate": 0.0001, "weight_decay": 0.0},
    ]
    settings["training"].update(num_epochs=3, batch_size=32)
    settings["threads"].update(alone=1)  # another test is at work beside this one
    settings["gate"]["min_macro_f1"] = 0.3
    return settings


def commit(project: Project) -> None:
    project.call("git", "add", "--all")
    project.call("git", "commit", "--quiet", "--message", "as it is")
