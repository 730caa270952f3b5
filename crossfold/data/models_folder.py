"""Find the weights that params.yaml names, and copy them as one file.

They are a file under models/, or a folder as timm writes it for the Hugging Face Hub. Such a
folder becomes one safetensors file, with the text of config.json in its metadata.
"""

from __future__ import annotations

import json
import shutil
import struct
from typing import TYPE_CHECKING, NamedTuple

from crossfold.errors import UserError, suggestion

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

_TENSORS = "model.safetensors"
CONFIG = "config.json"  # also the key of its text in the metadata of the copy
# Safetensors' own limit; a larger number isn't a header's length.
_MAX_HEADER = 100_000_000


class WeightsFiles(NamedTuple):
    """The names of a file with tensors and, in a folder, of its config."""

    tensors: str
    config: str | None = None


def find_weights(name: str, files: Collection[str]) -> WeightsFiles:
    """Find weights by their name among the files under models/.

    Raises:
        UserError: models.dvc lists neither such a file nor such a folder.
    """
    if name in files:
        return WeightsFiles(name)
    found = WeightsFiles(f"{name}/{_TENSORS}", f"{name}/{CONFIG}")
    if set(found) <= set(files):
        return found
    if any(file.startswith(f"{name}/") for file in files):
        raise UserError(
            f"params.yaml model.weights: the folder {name!r} in models.dvc needs {CONFIG} and "
            f"{_TENSORS}. Save both, as timm does with safe_serialization=True, or set "
            "model.weights to one of its files"
        )
    folders = {file.removesuffix(f"/{CONFIG}") for file in files if file.endswith(f"/{CONFIG}")}
    raise UserError(
        f"params.yaml model.weights: models.dvc has no file {name!r}; "
        f"{suggestion(name, sorted({*files, *folders}))} Set model.weights to one of its files, or "
        "put the file under models/ and `dvc add models`"
    )


def copy_weights(tensors: Path, config: Path, target: Path) -> None:
    """Copy the weights of a folder to one file, see `find_weights`.

    Raises:
        UserError: the tensors are not in the format of safetensors.
    """
    with tensors.open("rb") as source, target.open("wb") as file:
        try:  # the format: eight bytes with the header's length, the header as JSON, the tensors
            (length,) = struct.unpack("<Q", source.read(8))
            header = json.loads(source.read(min(length, _MAX_HEADER)))
            header.setdefault("__metadata__", {})[CONFIG] = config.read_text(encoding="utf-8")
        except (struct.error, ValueError, TypeError, AttributeError, RecursionError):
            raise UserError(
                f"params.yaml model.weights: {_TENSORS} or {CONFIG} of the folder is damaged, or "
                "in another format"
            ) from None
        file.write(safetensors_header(header))
        shutil.copyfileobj(source, file)


def safetensors_header(header: Mapping[str, object]) -> bytes:
    """Give the first bytes of a file in safetensors' format: the length, the header as JSON.

    The tensors follow at a multiple of eight bytes.
    """
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
