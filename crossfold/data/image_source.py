"""Where images are read from: a folder, or anything else that gives a file's bytes by its path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from crossfold.imaging.decoding import MAX_FILE_SIZE, read_image

from .layouts.layout import name_of
from .layouts.listing import escaped

if TYPE_CHECKING:
    from pathlib import Path


class ImageSource(Protocol):
    """Image files by their path below the folder of the classes. Threads may read side by side."""

    @property
    def name(self) -> str:
        """The folder's name, as messages have it."""

    def read(self, path: str, at_most: int = MAX_FILE_SIZE) -> bytes:
        """Read one file.

        Raises:
            BadImage: it is not a regular file, or has more than `at_most` bytes; it was not read.
            OSError: it cannot be read.
        """

    def require_whole(self) -> None:
        """Refuse a source that lacks some of the files read so far, or has damaged ones.

        Raises:
            UserError: it lists all of these.
        """


@dataclass(frozen=True)
class FolderSource:
    """The images of a folder on this machine."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name, escaped for terminals."""
        return escaped(name_of(self.folder))

    def read(self, path: str, at_most: int = MAX_FILE_SIZE) -> bytes:
        """Read one file; see `ImageSource`."""
        return read_image(self.folder / path, at_most)

    def require_whole(self) -> None:
        """Accept every folder: what it lacks is no image of it."""
