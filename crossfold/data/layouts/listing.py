"""List the files below a folder, except hidden files and those of operating systems."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# In small letters. Names that start with a dot (.DS_Store, ._photo.jpg, .git) need no entry.
_SYSTEM_FILES = {
    "$recycle.bin",  # Windows: folders on each drive
    "system volume information",
    "thumbs.db",  # Windows: previews and settings of a folder
    "thumbs.db:encryptable",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    "icon\r",  # macOS: a folder's picture
    "__macosx",  # macOS: in its zip archives
    "@eadir",  # Synology: previews
    "#recycle",
    "lost+found",  # Linux: on each drive
    "picasa.ini",
}

_MISNAMED = {"Cc", "Cs", "Zl", "Zp"}  # Unicode's categories; Cs is a byte that is not UTF-8


@dataclass(frozen=True)
class Listing:
    """The files below a folder; paths below it with `/`, sorted."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)  # directly in the folder
    ignored: list[str] = field(default_factory=list)  # files and folders, see `is_system_file`
    unreadable: list[str] = field(default_factory=list)  # folders


def list_files(folder: Path) -> Listing:
    """List the files below a folder, and follow symlinks.

    A symlink to one of its own parent folders is skipped, because following it would never end.
    """
    listing = Listing()
    around: dict[str, frozenset[tuple[int, int]]] = {}  # folder -> itself and its parents

    def below(path: str) -> str:
        return os.path.relpath(path, folder)

    def note_unreadable(error: OSError) -> None:
        listing.unreadable.append(below(error.filename))

    for parent, folders, names in os.walk(folder, followlinks=True, onerror=note_unreadable):
        status = os.stat(parent)  # noqa: PTH116
        this = (status.st_dev, status.st_ino)
        others = around.get(os.path.dirname(parent), frozenset())  # noqa: PTH120
        if this in others:
            folders.clear()
            continue
        around[parent] = others | {this}
        prefix = "" if parent == str(folder) else below(parent) + "/"
        ignored = {name for name in (*folders, *names) if is_system_file(name)}
        listing.ignored.extend(prefix + name for name in ignored)
        folders[:] = [name for name in folders if name not in ignored]
        if not prefix:
            listing.folders.extend(folders)
        listing.files.extend(prefix + name for name in names if name not in ignored)
    for paths in (listing.files, listing.folders, listing.ignored, listing.unreadable):
        paths.sort()
    return listing


def list_paths(paths: Iterable[str]) -> Listing:
    """List the files of a folder that is elsewhere, from the paths below it."""
    files, folders, ignored = [], set(), set()
    for path in paths:
        parts = path.split("/")
        system = next((end for end, part in enumerate(parts, 1) if is_system_file(part)), None)
        if system is None:
            files.append(path)
        else:
            ignored.add("/".join(parts[:system]))
        if len(parts) > 1 and system != 1:
            folders.add(parts[0])
    return Listing(sorted(files), sorted(folders), sorted(ignored))


def files_below(folder: Path) -> list[Path]:
    """List the files below a folder, sorted, except hidden files and system files."""
    return [folder / path for path in list_files(folder).files]


def is_system_file(name: str) -> bool:
    """Recognise by name a file or folder that is hidden or that an operating system creates."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def is_misnamed(name: str) -> bool:
    """Recognise a name that is not UTF-8 or has control characters."""
    return any(unicodedata.category(character) in _MISNAMED for character in name)


def escaped(name: str) -> str:
    r"""Escape a name for terminals and encoders: `caf\xe9.png`, `a\nb.png`."""
    if name.isprintable():
        return name
    return "".join(
        character if character.isprintable() or character == "\u200d" else _escape(character)
        for character in name
    )


def _escape(character: str) -> str:
    # A byte that is not UTF-8 is the second half of a surrogate pair to Python.
    byte = ord(character) - 0xDC00
    if 0x80 <= byte <= 0xFF:
        return f"\\x{byte:02x}"
    return character.encode("unicode_escape").decode()
