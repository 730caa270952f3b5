"""The images that steps and MLflow's server run in, named by what goes into them.

Kubeflow's caches, the local one included, look at an image's name and not at its content. A tag
that is a hash of the content makes a changed line of code a changed name.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from crossfold.errors import UserError
from crossfold.step.files import replaced_whole

ROOT = Path(__file__).resolve().parents[2]

DATA = "data"
TRAIN = "train"
MLFLOW = "mlflow"
ROLES = (DATA, TRAIN, MLFLOW)

# How a Dockerfile takes files from the project: COPY SOURCE… TARGET, and mounts for one command.
_COPIED = re.compile(r"^COPY (?P<sources>[^-].*) \S+$", re.MULTILINE)
_MOUNTED = re.compile(r"--mount=source=(?P<source>[^,\s]+)")
_KINDS = (".py", ".html", ".css")  # of a folder: all that a step reads of it


class Torch(StrEnum):
    """Which build of torch: the CPU-only one from PyTorch's index, or the package index's."""

    CPU = "cpu"
    DEFAULT = "default"


@dataclass(frozen=True)
class BuildArguments:
    """What the images are built with, besides the project's files."""

    python_image: str = "python:3.11-slim-bookworm"
    torch: Torch = Torch.CPU

    def of(self, role: str) -> dict[str, str]:
        """Return the arguments of a role's Dockerfile."""
        chosen = {"PYTHON_IMAGE": self.python_image}
        return chosen | {"TORCH": self.torch.value} if role == TRAIN else chosen


def build_arguments() -> BuildArguments | None:
    """Return what `crossfold images` built with the last time; None before the first time."""
    path = _record()
    try:
        record = json.loads(path.read_text())
        return BuildArguments(str(record["python_image"]), Torch(record["torch"]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path} is damaged: delete it, then `make images`") from None


def record_build_arguments(arguments: BuildArguments) -> None:
    """Let all that names images name those which were built with these arguments."""
    with replaced_whole(_record()) as part:
        part.write_text(json.dumps(asdict(arguments)))


def image_name(role: str, arguments: BuildArguments | None = None) -> str:
    """Return the name of a role's image for the present tree, as in crossfold-train:0f3a…

    Without arguments it is the image that `crossfold images` built last, or would build by default.
    """
    arguments = arguments or build_arguments() or BuildArguments()
    digest = hashlib.sha256(json.dumps(arguments.of(role), sort_keys=True).encode())
    for path in sorted(ingredients(role)):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return f"crossfold-{role}:{digest.hexdigest()[:16]}"


def code_name(role: str) -> str:
    """Return the name of a role's image as far as the project's files go, whatever it is built on.

    A step that is a process has the code, but not the image's Python and torch.
    """
    return image_name(role, BuildArguments())


def registry_name(role: str, registry: str | None) -> str:
    """Return the name by which a cluster pulls a role's image."""
    return f"{registry.rstrip('/')}/{image_name(role)}" if registry else image_name(role)


def ingredients(role: str) -> Iterator[Path]:
    """Yield the files that a role's image is made of, as its Dockerfile names them."""
    dockerfile = ROOT / "images" / role / "Dockerfile"
    yield from (ROOT / ".dockerignore", dockerfile)
    for pattern in _sources(dockerfile.read_text()):
        for path in ROOT.glob(pattern):
            if path.is_dir():
                yield from (file for file in path.rglob("*.*") if file.suffix in _KINDS)
            else:
                yield path


def _sources(dockerfile: str) -> set[str]:
    """Return the patterns of the files and folders that a Dockerfile takes from the project."""
    copied = {source for line in _COPIED.findall(dockerfile) for source in line.split()}
    return copied | set(_MOUNTED.findall(dockerfile))


def _record() -> Path:
    return ROOT / "images" / "build.json"
