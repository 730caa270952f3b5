"""What a run costs beside its steps' work: starting processes, imports, the runner itself."""

import ast
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml

from benchmarks.machine import Watch
from benchmarks.rounds import ROOT
from crossfold.runners.local import fork_server
from crossfold.step.runtime import Record

COMMAND = Path(sys.executable).with_name("crossfold")
# What the command imports: before the first step, and with MLflow's store.
_COMMAND_MODULES = (
    "import crossfold.cli.main, crossfold.cli.summary, crossfold.runners.display, "
    "crossfold.runners.local.run, "
    "mlflow.store.tracking.sqlalchemy_store"
)
# What Kubeflow's launcher and the step's first lines have imported when the work begins.
_LAUNCHER = "import kfp.dsl.executor_main, crossfold.step.runtime"
_TRACKING = "import crossfold.tracking.runs"
_STARTS = "… "  # before a step's name, in what `crossfold run` prints
_LIBRARIES = {
    "torch": "import torch",
    "torch and torchvision": "import torch, torchvision",
    "mlflow, as the steps use it": _TRACKING,
    "scikit-learn": "import sklearn.metrics",
    "kfp": "import kfp.dsl.executor_main",
    "crossfold.network.backbone": "import crossfold.network.backbone",
}
_OPENING = ("fetch_data", "extract_features", "train_fold", "aggregate_cv")
STEPS = (*_OPENING, "train_final", "evaluate_test", "register_model")


def import_seconds(imports: str, before: str = "") -> float:
    """Time imports in a fresh interpreter, after others that do not count; the better of two."""
    code = (
        f"{before}\nimport time\nstart = time.perf_counter()\n{imports}\n"
        "print(time.perf_counter() - start)"
    )
    command = [sys.executable, "-c", code]
    taken = [
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    return min(float(text.split()[-1]) for text in taken)


def forked_import_seconds(imports: Sequence[str]) -> list[float]:
    """Time imports as a step of a local run does them: forked from a process that has most."""
    context = multiprocessing.get_context("forkserver")
    taken = []
    with fork_server.fork_server():
        for code in ("", *imports):  # the first waits for the server
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_time_imports, args=(code, theirs))
            process.start()
            taken.append(float(ours.recv()))
            process.join()
    return taken[1:]


def _time_imports(code: str, answer: Connection) -> None:
    start = time.perf_counter()
    exec(code)
    answer.send(time.perf_counter() - start)


def imports_of(step: str) -> str:
    """Return the import statements in a component's body, as its process runs them."""
    tree = ast.parse((ROOT / "components" / f"{step}.py").read_text())
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    found = [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join([_TRACKING, *map(ast.unparse, found)])


@dataclass(frozen=True)
class Watched:
    """A run from outside: wall time, the steps' records, and when each one was started."""

    seconds: float
    records: dict[str, Record]
    created: dict[str, float]
    reused: list[str]


def measure(folder: Path) -> dict[str, Any]:
    """Run the sample first, again, with another learning rate and without cache; in seconds.

    `startup` is the mean over the steps of: from the runner's start of it to the step's first line,
    in the run, plus the imports of its body, in forks of their own. `body_imports` are those of a
    new process, as in a container.
    """
    project = _project(folder / "project")
    watch = Watch()
    libraries = {name: import_seconds(code) for name, code in _LIBRARIES.items()}
    in_containers = {step: import_seconds(imports_of(step), _LAUNCHER) for step in STEPS}
    taken = forked_import_seconds([imports_of(step) for step in STEPS])
    bodies = dict(zip(STEPS, taken, strict=True))
    command_imports = import_seconds(_COMMAND_MODULES)
    first = _run(project)  # pushes the data and makes MLflow's store, once for a project
    again = _run(project)
    changed = _run(project, "--set", "candidates.0.weight_decay=0.02")
    whole = _run(project, "--no-cache")
    to_body = {name: whole.records[name].started - whole.created[name] for name in whole.records}
    startups = [to_body[name] + bodies[whole.records[name].step] for name in whole.records]
    overhead = beyond_steps(whole) - command_imports
    return {
        "startup": statistics.mean(startups),
        "startup_to_body": statistics.mean(to_body.values()),
        "startup_body_imports": statistics.mean(
            bodies[record.step] for record in whole.records.values()
        ),
        "body_imports": in_containers,
        "libraries": libraries,
        "command_imports": command_imports,
        "overhead": overhead,
        "run_seconds": whole.seconds,
        "num_steps": len(whole.records),
        "first_seconds": first.seconds,
        "again_seconds": again.seconds,
        "again_reused": again.reused,
        "changed_seconds": changed.seconds,
        "changed_reused": changed.reused,
        "decoded_again": 0 if "extract_features" in changed.reused else _num_images(project),
        "others": watch.others(),
    }


def beyond_steps(run: Watched) -> float:
    """Return the seconds of a run in which no step's process was there."""
    ends = {name: record.ended or record.started for name, record in run.records.items()}
    return run.seconds - union([(run.created[name], ends[name]) for name in run.records])


def union(intervals: Sequence[tuple[float, float]]) -> float:
    """Return the length of what intervals cover together; steps run side by side."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def _project(root: Path) -> Path:
    """Write a project with the sample and two heads to compare, as a user would have it."""
    (root / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvcignore", ".gitignore", "data.dvc", "models.dvc"):
        shutil.copy(ROOT / name, root / name)
    settings = yaml.safe_load((ROOT / "params.yaml").read_text())
    settings["candidates"] = [
        {"freeze_backbone": True, "weight_decay": weight_decay} for weight_decay in (0.01, 0.1)
    ]
    (root / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    for command in (["git", "init", "--quiet"], [str(COMMAND), "sample"]):
        subprocess.run(command, cwd=root, env=_environment(), capture_output=True, check=True)
    return root


def _environment() -> dict[str, str]:
    """Return this environment without stores or remotes that this machine may have set."""
    own = ("MLFLOW_", "DVC_", "CROSSFOLD_", "GIT_", "AWS_", "GDRIVE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return {**kept, "PATH": f"{COMMAND.parent}{os.pathsep}{kept['PATH']}"}


def _num_images(project: Path) -> int:
    return sum(1 for path in (project / "data").rglob("*") if path.is_file())


def _run(project: Path, *options: str) -> Watched:
    """Run the pipeline and look, from outside, when it says that each step starts."""
    said, created = [], {}
    start = time.time()
    with subprocess.Popen(
        [str(COMMAND), "run", *options],
        cwd=project,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if line.startswith(_STARTS):
                created[line.removeprefix(_STARTS).strip()] = time.time()
    seconds = time.time() - start
    if process.returncode:
        raise SystemExit(f"crossfold run {' '.join(options)} failed:\n{''.join(said)}")
    run = max((project / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    state = json.loads(run.read_text())
    steps = {name: project / "runs" / folder for name, folder in state["steps"].items()}
    records = {name: Record.read(folder) for name, folder in steps.items()}
    reused = [name for name, record in records.items() if record.run_id != state["id"]]
    worked = {name: record for name, record in records.items() if name not in reused}
    return Watched(seconds, worked, created, sorted(reused))
