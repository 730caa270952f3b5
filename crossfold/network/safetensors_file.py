"""Store several named arrays in one file, read and written through memory maps.

The format is safetensors (https://huggingface.co/docs/safetensors/index#format): eight bytes with
the header's length, a JSON header, the arrays' bytes. The safetensors library writes a file from
arrays in memory, but the features of many images don't fit there. This module lays out the file
first, so that the caller can fill it piece by piece.
"""

import json
import os
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from crossfold.data.models_folder import safetensors_header
from crossfold.errors import UserError

_DTYPES = {"F32": "<f4", "I64": "<i8", "U8": "|u1"}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}

Array = np.ndarray[Any, np.dtype[Any]]


def create(
    path: Path, shapes: Mapping[str, tuple[type, tuple[int, ...]]], metadata: Mapping[str, Any]
) -> dict[str, Array]:
    """Lay out a file and return its arrays, mapped for writing and filled with zeros.

    `shapes` gives each array's type (np.float32, np.int64 or np.uint8) and shape. `metadata` is
    any JSON value. The caller flushes by dropping the arrays.

    Raises:
        OSError: the disk is too small.
    """
    header: dict[str, Any] = {"__metadata__": {"crossfold": json.dumps(metadata, sort_keys=True)}}
    end = 0
    # Widest types first: safetensors wants each array aligned to its type.
    for name, (kind, shape) in sorted(
        shapes.items(), key=lambda item: -np.dtype(item[1][0]).itemsize
    ):
        dtype = np.dtype(kind)
        begin, end = end, end + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [begin, end]}
    beginning = safetensors_header(header)
    with path.open("wb") as file:
        file.write(beginning)
        file.flush()
        if sys.platform == "linux":
            # Reserve the space: on a full disk, writing to a hole through a map kills the process.
            os.posix_fallocate(file.fileno(), 0, len(beginning) + end)
        else:
            file.truncate(len(beginning) + end)
    return _map(path, "r+")


def write(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, Any]) -> None:
    """Write in-memory arrays (float32, int64 or uint8) and metadata as one file."""
    shapes = {name: (array.dtype.type, array.shape) for name, array in arrays.items()}
    for name, mapped in create(path, shapes, metadata).items():
        mapped[...] = arrays[name]


def read(path: Path) -> tuple[dict[str, Array], Any]:
    """Open the file's arrays, mapped read-only, and its metadata.

    Raises:
        UserError: the file is damaged, or another program wrote it.
    """
    return _map(path, "r"), read_metadata(path)


def read_metadata(path: Path) -> Any:
    """Read only the metadata, without touching the arrays.

    Raises:
        UserError: as `read`.
    """
    header, _ = _header(path)
    try:
        return json.loads(header["__metadata__"]["crossfold"])
    except (KeyError, ValueError, RecursionError) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, reason: object) -> UserError:
    """Build the error for a file of a step that is damaged, or that another program wrote."""
    return UserError(
        f"{path} is damaged, or Crossfold did not write it ({reason}). Delete it, and run again"
    )


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Read the header and the place of its end, once the library finds the whole file sound."""
    try:
        with safetensors.safe_open(path, "np"):
            pass
    except safetensors.SafetensorError as error:
        raise unreadable(path, error) from None
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length)), 8 + length


def _map(path: Path, mode: Any) -> dict[str, Array]:
    header, start = _header(path)
    arrays: dict[str, Array] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _DTYPES:
            raise unreadable(path, f"{name} has the type {entry['dtype']}")
        dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
        if 0 in shape:  # an empty range cannot be mapped
            arrays[name] = np.zeros(shape, dtype)
        else:
            offset = start + entry["data_offsets"][0]
            arrays[name] = np.memmap(path, dtype, mode, offset, shape)
    return arrays
