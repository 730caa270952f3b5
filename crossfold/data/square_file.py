"""Squares of images in a scratch file, until the splits are known."""

from __future__ import annotations

import os
import tempfile
import threading
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crossfold.imaging.preprocessing import SquareGeometry


@contextmanager
def square_file(folder: Path, geometries: Sequence[SquareGeometry]) -> Iterator[SquareFile]:
    """Open a scratch file without a name, so that nothing is left of it even after a kill."""
    with tempfile.TemporaryFile(dir=folder) as file:
        yield SquareFile(file, geometries)


class SquareFile:
    """Squares of images, uint8 [S, S, 3] for each geometry; threads may write side by side.

    Args:
        file: an empty file.
        geometries: the geometries of the squares.
    """

    def __init__(self, file: IO[bytes], geometries: Sequence[SquareGeometry]) -> None:
        self.geometries = tuple(geometries)
        self._file = file
        self._places: dict[tuple[str, SquareGeometry], int] = {}
        self._lock = threading.Lock()

    def write(self, path: str, squares: Mapping[SquareGeometry, NDArray[np.uint8]]) -> None:
        """Add an image's squares.

        Raises:
            OSError: no space left.
        """
        for geometry, square in squares.items():
            with self._lock:
                self._places[path, geometry] = self._file.seek(0, os.SEEK_END)
                self._file.write(square.tobytes())

    def has_all(self, path: str) -> bool:
        """Tell whether an image has a square of each geometry."""
        return all((path, geometry) in self._places for geometry in self.geometries)

    def read(self, path: str) -> tuple[NDArray[np.uint8] | None, ...]:
        """Read an image's square of each geometry; None where it has none."""
        return tuple(self._read(path, geometry) for geometry in self.geometries)

    def _read(self, path: str, geometry: SquareGeometry) -> NDArray[np.uint8] | None:
        place = self._places.get((path, geometry))
        if place is None:
            return None
        side = geometry.image_size
        with self._lock:
            self._file.seek(place)
            pixels = np.frombuffer(self._file.read(side * side * 3), np.uint8)
        return pixels.reshape(side, side, 3)
