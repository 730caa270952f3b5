"""Build the images, and report their sizes."""

import json
import shutil
import subprocess
import tempfile
import time
import tomllib
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from crossfold.errors import UserError
from crossfold.step.environment import for_other_programs

from . import image_tags, shell
from .image_tags import ROLES, BuildArguments, Torch, build_arguments, image_name
from .messages import Say

CPU_INDEX = "https://download.pytorch.org/whl/cpu/torch/"  # uv's --torch-backend cpu uses it
_LAST_LINES = 20
# Parts of layers' commands: in the first of our instructions, and in the installation of torch.
_BASE_LABEL = "org.opencontainers.image.base.name="
_TORCH_COMMAND = "--torch-backend"


@dataclass(frozen=True)
class Size:
    """An image's size in bytes: in total, above its base, and in layers that install torch."""

    total: int
    above_base: int
    torch: int

    def __str__(self) -> str:
        text = f"{_megabytes(self.total)}, {_megabytes(self.above_base)} above its base"
        if self.torch:
            text += f"; {_megabytes(self.above_base - self.torch)} without torch's layer"
        return text


def build_images(torch: Torch | None, python_image: str | None, say: Say) -> None:
    """Build missing images and print every image's size; see `choose_arguments`.

    Raises:
        UserError: Docker is not available, or an image cannot be built.
    """
    check_docker()
    arguments = choose_arguments(torch, python_image, say)
    say(f"base {arguments.python_image}, torch {arguments.torch}")
    num_built = 0
    for role in ROLES:
        name = image_name(role, arguments)
        if not _exists(name):
            _build(role, name, arguments, say)
            num_built += 1
        say(f"{name}: {image_size(name)}")
    image_tags.record_build_arguments(arguments)
    if num_built == 0:
        say("nothing to build: all images are up to date")


def choose_arguments(torch: Torch | None, python_image: str | None, say: Say) -> BuildArguments:
    """Choose the build arguments: the given ones, or else those of the last build.

    The first build uses the project's base and, if PyTorch's index responds, its CPU-only torch.
    """
    last = build_arguments()
    if torch is None:
        torch = last.torch if last else _default_torch(say)
    return BuildArguments(python_image or (last or BuildArguments()).python_image, torch)


def build_image(role: str, say: Say) -> None:
    """Build one role's image if it is missing, with the arguments of the last `build_images`.

    Raises:
        UserError: Docker is not available, or the image cannot be built.
    """
    check_docker()
    name = image_name(role)
    if not _exists(name):
        _build(role, name, build_arguments() or BuildArguments(), say)


def image_size(name: str) -> Size:
    """Measure an image, in total and above the base that it was built on."""
    options = ("--no-trunc", "--human=false", "--format={{json .}}")
    history = shell.output("docker", "history", *options, name)
    layers = [
        (int(layer["Size"]), layer["CreatedBy"]) for layer in map(json.loads, history.splitlines())
    ]
    commands = [command for _, command in layers]  # the newest layer first
    num_ours = next(n for n, command in enumerate(commands) if _BASE_LABEL in command)
    return Size(
        total=sum(size for size, _ in layers),
        above_base=sum(size for size, _ in layers[:num_ours]),
        torch=sum(size for size, command in layers if _TORCH_COMMAND in command),
    )


def check_docker() -> None:
    """Raise UserError if Docker is missing, or its engine does not respond."""
    if not shutil.which("docker"):
        raise UserError(
            "there is no `docker` command: install Docker (https://docs.docker.com/get-docker/)"
        )
    done = shell.run("docker", "version", "--format", "{{.Server.Version}}")
    if done.returncode != 0:
        raise UserError(
            f"the Docker engine does not answer: {_last_line(done.stderr)}. Start it (Docker "
            "Desktop, or `systemctl start docker`). You need permission to use it (group `docker`)"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _default_torch(say: Say) -> Torch:
    try:
        with urllib.request.urlopen(urllib.request.Request(CPU_INDEX, method="HEAD"), timeout=5):
            return Torch.CPU
    except OSError as error:
        say(
            f"PyTorch's index does not answer ({getattr(error, 'reason', error)}), so the training "
            "image gets torch from the package index, with CUDA and several GB larger. "
            "`crossfold images --torch cpu` uses PyTorch's index regardless"
        )
        return Torch.DEFAULT


def _exists(name: str) -> bool:
    return shell.run("docker", "image", "inspect", name).returncode == 0


def _build(role: str, name: str, arguments: BuildArguments, say: Say) -> None:
    log = Path("runs", "images", f"{role}.log")
    say(f"{name}: building; {log} shows the progress")
    started = time.monotonic()
    image_id = _docker_build(role, arguments, log)
    if image_id is None:
        lines = (image_tags.ROOT / log).read_text(errors="replace").splitlines()
        end = "\n".join(lines[-_LAST_LINES:])
        raise UserError(f"{name} cannot be built. The end of {log}:\n{end}")
    if image_name(role, arguments) != name:
        raise UserError(f"{name}: files changed during the build. Run `crossfold images` again")
    shell.output("docker", "tag", image_id, name)
    say(f"{name}: built in {time.monotonic() - started:.0f} s")


def _docker_build(role: str, arguments: BuildArguments, log: Path) -> str | None:
    """Build a role's image with Docker's output in `log`; return its id, or None on failure."""
    root = image_tags.ROOT
    (root / log).parent.mkdir(parents=True, exist_ok=True)
    values = arguments.of(role) | {"COMMIT": _commit(), "VERSION": _version()}
    options = [f"--build-arg={key}={value}" for key, value in values.items()]
    options.append(f"--file={root / 'images' / role / 'Dockerfile'}")
    with (root / log).open("w") as file, tempfile.TemporaryDirectory() as folder:
        id_file = Path(folder) / "id"
        done = subprocess.run(
            ["docker", "build", "--progress=plain", f"--iidfile={id_file}", *options, root],
            env={**for_other_programs(), "DOCKER_BUILDKIT": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return id_file.read_text() if done.returncode == 0 else None


def _commit() -> str:
    """Name the commit, with a mark if files differ from it; empty outside git."""
    describe = ("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    return shell.git(image_tags.ROOT, *describe) if shell.has_commit(image_tags.ROOT) else ""


def _version() -> str:
    project = tomllib.loads((image_tags.ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
