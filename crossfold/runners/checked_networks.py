"""Remember which networks passed the check before a run: importing torch for it takes seconds.

An entry's name is a hash of everything that the answer depends on: the backbone's settings, the
cuts, the weights' content, Crossfold's code, and the libraries that build and read networks. A
refusal is not remembered. `crossfold clean` deletes the entries.
"""

import hashlib
import json
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from crossfold.infra.image_tags import TRAIN, code_name
from crossfold.settings import Backbone

_FOLDER = Path("runs", "cache", "networks")
_LIBRARIES = ("torch", "torchvision", "timm", "safetensors")


def entry(root: Path, backbone: Backbone, cuts: Sequence[str], weights: Iterable[str]) -> Path:
    """Name the file that remembers a network's check; `weights` are the MD5s of their files."""
    content = {
        "backbone": backbone.model_dump(mode="json"),
        "cuts": list(cuts),
        "weights": list(weights),
        "code": code_name(TRAIN),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return root / _FOLDER / f"{digest}.json"
