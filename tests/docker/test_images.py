"""The images as they are built here, and what is in them."""

import ast
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from docker.errors import ImageNotFound

from crossfold.errors import UserError
from crossfold.infra import image_tags
from crossfold.infra.image_build import build_images, image_size
from crossfold.infra.image_tags import (
    DATA,
    MLFLOW,
    ROLES,
    TRAIN,
    Torch,
    build_arguments,
    files_in_image,
    image_name,
)

from ..pipeline.projects import SCRIPTS, SOURCE, environment, write_project

STEPS = (DATA, TRAIN)
ANY_USER = "12345:23456"  # as a cluster may choose

# What can be checked too where PyTorch's index is out of reach and torch comes with CUDA: the whole
# is then some GB, of which all but CUDA's libraries and Triton were 1,274 MB in November 2026.
TRAIN_WITHOUT_TORCH = 700e6  # model-signing has 14 MB of it


def run(engine: docker.DockerClient, image: str, code: str, **options: Any) -> str:
    """Run Python as any user, with nothing to write to but /tmp and no network."""
    hardened = {"user": ANY_USER, "read_only": True, "tmpfs": {"/tmp": ""}, "network_mode": "none"}
    output = engine.containers.run(
        image, ["python3", "-c", code], remove=True, stderr=True, **(hardened | options)
    )
    return str(output.decode())


def shell(engine: docker.DockerClient, image: str, command: str) -> str:
    """Run a command as root, who sees every file."""
    output = engine.containers.run(image, ["sh", "-c", command], remove=True, user="0")
    return str(output.decode())


def crossfold(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPTS / "crossfold", *arguments],
        cwd=SOURCE,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the images are made of, in a git repository of its own."""
    root = tmp_path / "tree"
    for path in {path for role in ROLES for path in files_in_image(role)}:
        copy = root / path.relative_to(SOURCE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    for name in (".gitignore", "pyproject.toml"):
        shutil.copy2(SOURCE / name, root)
    subprocess.run(["git", "init", "--quiet", root], check=True)
    if arguments := build_arguments():
        monkeypatch.setattr(image_tags, "ROOT", root)
        image_tags.record_build_arguments(arguments)
    monkeypatch.setattr(image_tags, "ROOT", root)
    return root


# Names


def test_an_unchanged_tree_builds_nothing(images: dict[str, str]) -> None:
    done = crossfold("images")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search("building|built in", done.stdout)
    for name in images.values():
        assert re.search(rf"^{name}: [0-9,]+ MB, [0-9,]+ MB above its base", done.stdout, re.M)


def test_the_compiled_pipeline_names_the_images_that_are_there(
    images: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "pipeline.yaml"
    done = crossfold("compile", "-o", str(path))
    assert done.returncode == 0, done.stderr
    specification, *_ = yaml.safe_load_all(path.read_text())
    executors = specification["deploymentSpec"]["executors"].values()
    assert {executor["container"]["image"] for executor in executors} == {
        images[DATA],
        images[TRAIN],
    }


def test_a_changed_line_of_code_is_a_new_image_on_the_same_packages(
    images: dict[str, str], engine: docker.DockerClient, tree: Path
) -> None:
    module = tree / "crossfold" / "data" / "splits.py"
    module.write_text(module.read_text() + "\nCHANGED = 1\n")
    changed = {role: image_name(role) for role in ROLES}
    said: list[str] = []
    try:
        build_images(None, None, said.append)
        assert [role for role in ROLES if changed[role] != images[role]] == [DATA, TRAIN]
        assert sum("built in" in line for line in said) == len(STEPS)
        for role in STEPS:
            before, after = (
                engine.images.get(name).attrs["RootFS"]["Layers"]
                for name in (images[role], changed[role])
            )
            # Shared are the base's layers and those of the packages, two for torch and the rest.
            num_shared = next(
                n for n, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]
            )
            copies = (SOURCE / "images" / role / "Dockerfile").read_text().count("COPY crossfold")
            assert num_shared >= len(before) - copies - 1  # the last compiles them
            code = "import crossfold.data.splits; print(crossfold.data.splits.CHANGED)"
            assert run(engine, changed[role], code) == "1\n"
    finally:
        for role in STEPS:
            engine.images.remove(changed[role])


# What gets in


IGNORED = (
    ".env",
    ".env.local",
    ".env.py",
    ".env.html",
    "store.db",
    "server.key",
    "id.pem",
    "credentials.json",
    "my-service-account.json",
    "project-0123456789ab.json",
    "__pycache__/data.cpython-311.pyc",
    "__pycache__/left.py",
    "x.egg-info/left.py",
    ".mypy_cache/left.py",
    ".ruff_cache/left.py",
    ".pytest_cache/left.html",
)
IGNORED_AT_THE_TOP = (
    "data/0/0.png",
    "models/resnet18.safetensors",
    "runs/mlflow.db",
    "dvc-remote/files/md5/00/aa",
    ".dvc/config.local",
    ".dvc/cache/files/md5/00/aa",
    ".venv/bin/python.py",
    "images/build.json",
    "pipeline.yaml",
    "reports/report.html",
    "services.env",
)


@pytest.fixture
def context(engine: docker.DockerClient, tree: Path, tmp_path: Path) -> Callable[[], set[str]]:
    """Return the files that a build sees."""

    def exported() -> set[str]:
        target = tmp_path / "exported"
        subprocess.run(
            ["docker", "build", "--quiet", "--file=-", f"--output={target}", tree],
            input=b"FROM scratch\nCOPY . /\n",
            env={**os.environ, "DOCKER_BUILDKIT": "1"},
            check=True,
        )
        return {
            path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()
        }

    return exported


def test_no_file_that_git_ignores_gets_into_a_build(
    context: Callable[[], set[str]], tree: Path
) -> None:
    folders = {path.parent.relative_to(tree) for role in ROLES for path in files_in_image(role)}
    assert len(folders) >= 6
    planted = {str(folder / name) for folder in folders for name in IGNORED}
    planted |= set(IGNORED_AT_THE_TOP)
    for name in planted:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("not for others")
    listed = ["git", "-C", str(tree), "ls-files", "--others", "--ignored", "--exclude-standard"]
    ignored = set(subprocess.check_output(listed, text=True).splitlines())
    assert ignored == planted
    found = context()
    assert not found & ignored
    assert not any(name.startswith(".git") for name in found)


def test_a_build_sees_what_is_in_the_names_and_nothing_else(
    context: Callable[[], set[str]], tree: Path
) -> None:
    named = {path.relative_to(tree) for role in ROLES for path in files_in_image(role)}
    given_apart = {"Dockerfile", ".dockerignore"}
    assert context() == {str(path) for path in named if path.name not in given_apart}


# What is in them


@pytest.mark.parametrize("role", ROLES)
def test_it_runs_as_an_ordinary_user(
    images: dict[str, str], engine: docker.DockerClient, role: str
) -> None:
    assert engine.images.get(images[role]).attrs["Config"]["User"] == "65532:65532"
    assert run(engine, images[role], "import os; print(os.getuid())", user=None) == "65532\n"


@pytest.mark.parametrize("role", ROLES)
def test_it_says_where_it_comes_from(
    images: dict[str, str], engine: docker.DockerClient, role: str
) -> None:
    labels = engine.images.get(images[role]).labels
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    arguments = build_arguments()
    assert arguments
    assert labels["org.opencontainers.image.title"] == f"crossfold-{role}"
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels["org.opencontainers.image.base.name"] == arguments.python_image
    # The commit that first needed this image: a later one with the same files has no other image.
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?", labels["org.opencontainers.image.revision"])


@pytest.mark.parametrize("role", ROLES)
def test_it_has_no_tool_no_cache_and_no_rubbish(
    images: dict[str, str], engine: docker.DockerClient, role: str
) -> None:
    tools = "for tool in cc gcc c++ ld make uv git curl; do command -v $tool; done; true"
    assert shell(engine, images[role], tools) == ""
    left = "find /root /home /tmp /var/tmp /var/cache/apt/archives -type f ! -name '.*'"
    assert shell(engine, images[role], f"{left}; find / -xdev -path '*/.cache/*' -type f") == ""


def test_the_sizes_are_within_bounds(images: dict[str, str]) -> None:
    arguments = build_arguments()
    assert arguments
    data, train = (image_size(images[role]) for role in STEPS)
    assert data.torch == 0 and 0 < data.above_base < data.total <= 480e6
    assert train.torch > 200e6
    assert train.above_base - train.torch <= TRAIN_WITHOUT_TORCH
    if arguments.torch is Torch.CPU:
        assert train.above_base <= 1.3e9


# What it is for


def component_imports(path: Path) -> str:
    """Return what a component imports, and what Kubeflow starts it with."""
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
    return "; ".join(["import kfp.dsl.executor_main", *map(ast.unparse, nodes)])


COMPONENTS = sorted((SOURCE / "components").glob("[a-z]*.py"))


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.stem)
def test_a_step_has_all_that_it_imports(
    images: dict[str, str], engine: docker.DockerClient, path: Path
) -> None:
    role = DATA if path.stem in ("fetch_data", "fetch_weights") else TRAIN
    code = component_imports(path)
    assert "from crossfold" in code
    assert run(engine, images[role], code, environment={"_KFP_RUNTIME": "true"}) == ""


def test_the_data_image_has_no_torch(images: dict[str, str], engine: docker.DockerClient) -> None:
    code = "from importlib.util import find_spec; print(find_spec('torch'), find_spec('sklearn'))"
    assert run(engine, images[DATA], code) == "None None\n"


FETCH = """
import json, os
from pathlib import Path
from crossfold.data.fetch import fetch_data, fetch_weights
from crossfold.data.splits import SplitSettings
pointers = json.loads(os.environ["POINTERS"])
fetched = fetch_data(
    data_pointer=pointers["data"], remote="sample",
    settings=SplitSettings(num_folds=3, test_fraction=0.2, seed=1), geometries=[],
    examples=Path("/tmp/examples"), data_page=Path("/tmp/data_page"),
)
fetch_weights(
    pointer=pointers["models"], remote="sample", weights="resnet18-random.safetensors",
    weights_file=Path("/tmp/weights"),
)
from crossfold.data.examples import Examples
print(fetched.num_images, len(fetched.classes), len(Examples(Path("/tmp/examples")).classes))
"""


def test_the_data_image_fetches_from_a_remote(
    images: dict[str, str], engine: docker.DockerClient, tmp_path: Path
) -> None:
    project = write_project(tmp_path / "project")
    project.call("dvc", "push", "--quiet")
    pointers = {name: (project.root / f"{name}.dvc").read_text() for name in ("data", "models")}
    output = run(
        engine,
        images[DATA],
        FETCH,
        volumes={str(project.root / "dvc-remote"): {"bind": "/remote", "mode": "ro"}},
        environment={
            "CROSSFOLD_DVC_REMOTE": json.dumps({"url": "/remote"}),
            "POINTERS": json.dumps(pointers),
        },
    )
    assert output.splitlines()[-1] == "200 10 10"


REMOTES = """
import dvc_gdrive, dvc_s3
from botocore.session import Session
from googleapiclient.discovery import build
from importlib.resources import files
store = dvc_s3.S3FileSystem(
    url="s3://bucket", endpointurl="http://localhost:9", access_key_id="a", secret_access_key="b"
)
print(store.fs.protocol[0], dvc_gdrive.GDriveFileSystem.protocol)
for service in ("s3", "sts", "sso", "sso-oidc"):
    Session().create_client(service, region_name="eu-central-1")
drive = build("drive", "v2", developerKey="a", cache_discovery=False)
print(drive.files().list(q="title = 'x'").uri)
documents = files("googleapiclient.discovery_cache") / "documents"
print(*[document.name for document in documents.iterdir()])
"""


def test_the_data_image_has_what_s3_and_google_drive_need(
    images: dict[str, str], engine: docker.DockerClient
) -> None:
    protocols, uri, documents = run(engine, images[DATA], REMOTES).splitlines()
    assert protocols == "s3 gdrive"
    assert uri.startswith("https://www.googleapis.com/drive/v2/files?q=title")
    assert documents == "drive.v2.json"


# Every library whose symbols were cut off works: loaded in part by imports alone.
LIBRARIES = """
import io, numpy as np, torch, torchvision
from matplotlib.figure import Figure
from scipy.special import stdtrit
from sklearn.metrics import roc_auc_score
print(np.linalg.inv(np.eye(3) * 2).trace(), f"{stdtrit(4, 0.975):.3f}")
print(roc_auc_score([0, 1, 1], [0.1, 0.4, 0.3]))
boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [5, 5, 6, 6]])
print(torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist())
network = torch.nn.Conv2d(3, 4, 3)
network(torch.ones(2, 3, 8, 8)).sum().backward()
print(tuple(network.weight.grad.shape), torch.linalg.inv(torch.eye(2)).tolist())
figure = Figure()
figure.subplots().plot([1, 2])
for kind in ("png", "svg"):
    file = io.BytesIO()
    figure.savefig(file, format=kind)
    print(kind, len(file.getvalue()) > 1000)
"""


def test_the_training_images_libraries_compute(
    images: dict[str, str], engine: docker.DockerClient
) -> None:
    assert run(engine, images[TRAIN], LIBRARIES).splitlines() == [
        "1.5 2.776",
        "1.0",
        "[0, 2]",
        "(4, 3, 3, 3) [[1.0, 0.0], [0.0, 1.0]]",
        "png True",
        "svg True",
    ]


# What goes wrong


def replace_dockerfiles(tree: Path, text: str) -> None:
    for role in ROLES:
        (tree / "images" / role / "Dockerfile").write_text(text)


def test_a_failed_build_says_how_it_ended_and_where_the_rest_is(
    engine: docker.DockerClient, tree: Path
) -> None:
    before = build_arguments()
    base = (before or image_tags.BuildArguments()).python_image
    replace_dockerfiles(tree, f"FROM {base}\nRUN echo 'no such wheel' && exit 3\n")
    with pytest.raises(
        UserError, match=r"cannot be built\. The end of runs/images/data.log"
    ) as told:
        build_images(Torch.DEFAULT, None, print)
    assert "no such wheel" in str(told.value)
    assert "no such wheel" in (tree / "runs" / "images" / "data.log").read_text()
    assert build_arguments() == before
    with pytest.raises(ImageNotFound):
        engine.images.get(image_name(DATA))


def test_files_that_change_during_a_build_give_no_image(
    engine: docker.DockerClient, tree: Path
) -> None:
    replace_dockerfiles(tree, "FROM scratch\nCOPY crossfold /\n")
    name = image_name(DATA)

    def change(line: str) -> None:
        if "building" in line:
            (tree / "crossfold" / "errors.py").write_text("")

    with pytest.raises(UserError, match="crossfold images"):
        build_images(None, None, change)
    with pytest.raises(ImageNotFound):
        engine.images.get(name)


def test_an_engine_that_does_not_answer_is_said_in_a_line() -> None:
    done = crossfold("images", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert done.returncode == 2
    assert "the Docker engine does not answer: " in done.stderr
    assert "Start it" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_build_of_torch_that_there_is_not_is_refused() -> None:
    done = crossfold("images", "--torch", "gpu", COLUMNS="200")
    assert done.returncode == 2
    assert "'gpu' is not one of 'cpu', 'default'" in done.stderr


STARTING_STORE = """
import os, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
import buckets
from minio import Minio

class Store(BaseHTTPRequestHandler):
    log_message = lambda *_: None
    answers = [(503, b""), (200, b"<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>")]
    def do_GET(self):
        status, body = self.answers.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

server = HTTPServer(("127.0.0.1", 0), Store)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_port}"
print(Minio(**buckets._connection(address)).list_buckets())
"""


def test_an_object_store_that_is_starting_is_waited_for(
    engine: docker.DockerClient, images: dict[str, str]
) -> None:
    """As MinIO, which answers 503 for a moment before it works."""
    key = {"AWS_ACCESS_KEY_ID": "crossfold", "AWS_SECRET_ACCESS_KEY": "crossfold"}
    assert run(engine, images[MLFLOW], STARTING_STORE, environment=key) == "[]\n"
