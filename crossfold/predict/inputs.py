"""Expand files, folders and globs to the paths of image files."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from crossfold.data.layouts.listing import files_below, is_system_file
from crossfold.errors import UserError
from crossfold.versioning.dvc import listed


def find_images(names: Sequence[str]) -> list[str]:
    """Expand names to the paths of image files, in the order of the names, without duplicates.

    Of two spellings of a path, such as `a.png` and `./a.png`, the first is kept. A folder expands
    to all files below it, sorted (see `listing.files_below`). A glob expands to its matches,
    sorted; `**` matches any number of folders.

    Raises:
        UserError: a name doesn't exist, a folder has no files, or a glob matches nothing; the
            message lists all such names.
    """
    found: dict[Path, str] = {}
    problems = []
    for name in names:
        paths = list(_paths(name))
        for path in paths:
            spelled = Path(path)
            found.setdefault(spelled.parent.resolve() / spelled.name, path)
        if not paths:
            problems.append(_problem(name))
    if problems:
        raise UserError(f"these names match no images:\n{listed(problems)}")
    return list(found.values())


def _paths(name: str) -> Iterator[str]:
    if os.path.exists(name):  # noqa: PTH110
        yield from _files(name)  # before globbing: a file's name may contain brackets
    else:
        for path in sorted(glob.glob(name, recursive=True)):  # noqa: PTH207
            if not is_system_file(Path(path).name):
                yield from _files(path)


def _files(path: str) -> Iterator[str]:
    if os.path.isdir(path):  # noqa: PTH112
        yield from sorted(map(str, files_below(Path(path))))
    elif os.path.isfile(path):  # noqa: PTH113
        yield path


def _problem(name: str) -> str:
    if os.path.isdir(name):  # noqa: PTH112
        return f"{name}: the folder has no files"
    if os.path.lexists(name):
        return f"{name}: not a file or folder that can be read"
    return f"{name}: {'matches nothing' if glob.has_magic(name) else 'no such file or folder'}"
