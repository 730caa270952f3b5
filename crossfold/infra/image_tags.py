"""Compute the tags of the images from the files that go into them.

Kubeflow's caches, including the local one, compare an image's name, not its content. With a hash of
the content as the tag, a changed line of code changes the name.
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

# A Dockerfile takes project files with COPY SOURCE… TARGET, or mounts them for one command.
_COPIED = re.compile(r"^COPY (?P<sources>[^-].*) \S+$", re.MULTILINE)
_MOUNTED = re.compile(r"--mount=source=(?P<source>[^,\s]+)")
_KINDS = (".py", ".html", ".css")  # the only files that steps read from a folder


class Torch(StrEnum):
    """The build of torch: CPU-only from PyTorch's index, or the package index's."""

    CPU = "cpu"
    DEFAULT = "default"


@dataclass(frozen=True)
class BuildArguments:
    """Build arguments of the images, which also depend on the project's files."""

    # A tag, not a digest: see the end of docs/decisions/058-supply-chain.md.
    python_image: str = "python:3.11-slim-bookworm"
    torch: Torch = Torch.CPU

    def of(self, role: str) -> dict[str, str]:
        """Select the arguments for a role's Dockerfile."""
        chosen = {"PYTHON_IMAGE": self.python_image}
        return chosen | {"TORCH": self.torch.value} if role == TRAIN else chosen


def build_arguments() -> BuildArguments | None:
    """Read the arguments of the last `crossfold images`; None if it never ran."""
    path = _record()
    try:
        record = json.loads(path.read_text())
        return BuildArguments(str(record["python_image"]), Torch(record["torch"]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path} is damaged: delete it and run `crossfold images`") from None


def record_build_arguments(arguments: BuildArguments) -> None:
    """Record build arguments, so that `image_name` names the images built with them."""
    with replaced_whole(_record()) as part:
        part.write_text(json.dumps(asdict(arguments)))


def image_name(role: str, arguments: BuildArguments | None = None) -> str:
    """Name a role's image for the present source tree, such as crossfold-train:0f3a…

    Without arguments, name the image that `crossfold images` built last, or would build by default.
    """
    arguments = arguments or build_arguments() or BuildArguments()
    digest = hashlib.sha256(json.dumps(arguments.of(role), sort_keys=True).encode())
    for path in sorted(files_in_image(role)):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return f"crossfold-{role}:{digest.hexdigest()[:16]}"


def code_name(role: str) -> str:
    """Name a role's code by the project's files alone, regardless of the image's base.

    A step that runs as a process has the image's code, but not its Python and torch.
    """
    return image_name(role, BuildArguments())


def registry_name(role: str, registry: str | None) -> str:
    """Name a role's image as a cluster pulls it, with the registry if one is given."""
    return f"{registry.rstrip('/')}/{image_name(role)}" if registry else image_name(role)


def files_in_image(role: str) -> Iterator[Path]:
    """Yield the files that go into a role's image according to its Dockerfile."""
    dockerfile = ROOT / "images" / role / "Dockerfile"
    yield from (ROOT / ".dockerignore", dockerfile)
    for pattern in _sources(dockerfile.read_text()):
        for path in ROOT.glob(pattern):
            if path.is_dir():
                yield from (file for file in path.rglob("*.*") if file.suffix in _KINDS)
            else:
                yield path


def _sources(dockerfile: str) -> set[str]:
    """Find the patterns of files and folders that a Dockerfile takes from the project."""
    copied = {source for line in _COPIED.findall(dockerfile) for source in line.split()}
    return copied | set(_MOUNTED.findall(dockerfile))


def _record() -> Path:
    return ROOT / "images" / "build.json"
