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

from . import images, shell
from .images import ROLES, BuildArguments, Torch, build_arguments, image_name
from .shell import Say

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
        if not _is_there(name):
            _build(role, name, arguments, say)
            num_built += 1
        say(f"{name}: {image_size(name)}")
    images.record_build_arguments(arguments)
    if num_built == 0:
        say("nothing was built: the images of this tree are there")


def choose_arguments(torch: Torch | None, python_image: str | None, say: Say) -> BuildArguments:
    """Choose the build arguments: the given ones, or else those of the last build.

    The first build uses the project's base and, if PyTorch's index responds, its CPU-only torch.
    """
    last = build_arguments()
    if torch is None:
        torch = last.torch if last else _torch_at_hand(say)
    return BuildArguments(python_image or (last or BuildArguments()).python_image, torch)


def build_image(role: str, say: Say) -> None:
    """Build one role's image if it is missing, with the arguments of the last `build_images`.

    Raises:
        UserError: Docker is not available, or the image cannot be built.
    """
    check_docker()
    name = image_name(role)
    if not _is_there(name):
        _build(role, name, build_arguments() or BuildArguments(), say)


def image_size(name: str) -> Size:
    """Measure an image, in total and above the base that it was built on."""
    history = _docker("history", "--no-trunc", "--human=false", "--format={{json .}}", name)
    layers = [
        (int(found["Size"]), found["CreatedBy"]) for found in map(json.loads, history.splitlines())
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
            "Desktop, or `systemctl start docker`) and see that you may use it (group `docker`)"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _torch_at_hand(say: Say) -> Torch:
    try:
        with urllib.request.urlopen(urllib.request.Request(CPU_INDEX, method="HEAD"), timeout=5):
            return Torch.CPU
    except OSError as error:
        say(
            f"PyTorch's index does not answer ({getattr(error, 'reason', error)}), so the training "
            "image gets the package index's torch, with CUDA and several GB larger. TORCH=cpu asks "
            "that index all the same"
        )
        return Torch.DEFAULT


def _is_there(name: str) -> bool:
    return shell.run("docker", "image", "inspect", name).returncode == 0


def _build(role: str, name: str, arguments: BuildArguments, say: Say) -> None:
    log = Path("runs", "images", f"{role}.log")
    (images.ROOT / log).parent.mkdir(parents=True, exist_ok=True)
    values = arguments.of(role) | {"COMMIT": _commit(), "VERSION": _version()}
    options = [f"--build-arg={key}={value}" for key, value in values.items()]
    options.append(f"--file={images.ROOT / 'images' / role / 'Dockerfile'}")
    say(f"{name}: building; {log} shows how far it is")
    started = time.monotonic()
    with (images.ROOT / log).open("w") as file, tempfile.TemporaryDirectory() as folder:
        image_id = Path(folder) / "id"
        done = subprocess.run(
            ["docker", "build", "--progress=plain", f"--iidfile={image_id}", *options, images.ROOT],
            env={**shell.environment(), "DOCKER_BUILDKIT": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode == 0:
            built = image_id.read_text()
    if done.returncode != 0:
        lines = (images.ROOT / log).read_text(errors="replace").splitlines()
        end = "\n".join(lines[-_LAST_LINES:])
        raise UserError(f"{name} cannot be built. The end of {log}:\n{end}")
    if image_name(role, arguments) != name:
        raise UserError(f"{name}: files changed while it was built. Run `make images` again")
    _docker("tag", built, name)
    say(f"{name}: built in {time.monotonic() - started:.0f} s")


def _commit() -> str:
    """Name the commit, with a mark if files differ from it; empty outside git."""
    describe = ("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    return shell.git(images.ROOT, *describe) if shell.has_commit(images.ROOT) else ""


def _version() -> str:
    project = tomllib.loads((images.ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def _docker(*arguments: str) -> str:
    done = shell.run("docker", *arguments)
    if done.returncode != 0:
        raise UserError(f"docker {arguments[0]}: {_last_line(done.stderr)}")
    return done.stdout


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]
