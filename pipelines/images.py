"""The images that steps run in, named by what goes into them.

Kubeflow's caches, the local one included, look at an image's name and not at its content. A tag
that is a hash of the content makes a changed line of code a changed name.
"""

import hashlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

DATA = "data"
TRAIN = "train"

_LOCKS = {DATA: ("base.txt",), TRAIN: ("base.txt", "torch.txt")}


def image_name(role: str) -> str:
    """Return the name of a role's image for the present tree, as in crossfold-train:0f3a…"""
    # The lock leaves open which build of torch is installed, CUDA's or the CPU-only one.
    digest = hashlib.sha256(version("torch").encode() if role == TRAIN else b"")
    for path in sorted(_ingredients(role)):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return f"crossfold-{role}:{digest.hexdigest()[:16]}"


def _ingredients(role: str) -> Iterator[Path]:
    yield from (ROOT / "crossfold").rglob("*.py")
    yield from (path for path in (ROOT / "crossfold" / "templates").iterdir())
    yield from (ROOT / "requirements" / name for name in _LOCKS[role])
