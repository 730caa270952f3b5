"""Find the classes of a folder of images, and faults in its layout."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from crossfold.errors import UserError
from crossfold.versioning.dvc import listed

from .grouping.rule import FOLDER, FileGroups
from .listing import escaped, is_misnamed, list_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from .grouping.rule import GroupRule
    from .listing import Listing

# In small letters: folders that divide images into splits, not into classes.
_SPLITS = {
    "train",
    "training",
    "val",
    "valid",
    "validation",
    "dev",
    "eval",
    "test",
    "testing",
    "holdout",
}


@dataclass(frozen=True)
class Finding:
    """A message about several files or folders, with a line for each."""

    about: str
    lines: tuple[str, ...] = ()
    advice: str = ""

    def __str__(self) -> str:
        if not self.lines:
            return self.about
        return f"{self.about}:\n{listed(list(self.lines))}" + (self.advice and f"\n{self.advice}")


@dataclass(frozen=True)
class Layout:
    """The files of each class, and the faults.

    Attributes:
        files: class -> paths below the folder, sorted; all names can be written anywhere.
        faults: problems that prevent training.
        notes: possible mistakes.
        ignored: hidden files and system files, see `listing.is_system_file`.
        groups: how to find an image's group; None without groups, or without their file.
    """

    files: dict[str, list[str]]
    faults: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    ignored: tuple[str, ...]
    groups: GroupRule | None = None

    @property
    def classes(self) -> dict[str, str]:
        """The class of each image, by its path."""
        return {path: name for name, paths in self.files.items() for path in paths}


def read_layout(folder: Path, groups: GroupRule | None = None) -> Layout:
    """Find the classes of a folder with one subfolder per class.

    Raises:
        UserError: there is no such folder, it cannot be read, or none in it can be a class.
    """
    if not folder.is_dir():
        raise UserError(f"{escaped(str(folder))} is not a folder")
    listing = list_files(folder)
    if "." in listing.unreadable:
        raise UserError(f"{escaped(str(folder))} cannot be read: permission denied")
    return judge_layout(name_of(folder), listing, groups)


def judge_layout(folder: str, listing: Listing, groups: GroupRule | None = None) -> Layout:
    """Find the classes among the files of a folder with this name.

    A CSV file of groups may lie beside the classes.

    Raises:
        UserError: no folder can be a class.
    """
    name = escaped(folder)
    listing, missing = _without_group_file(name, listing, groups)
    if not listing.folders:
        raise UserError(_no_classes(name, listing))
    files: dict[str, list[str]] = {
        name: []
        for name in listing.folders
        if not is_misnamed(name) and name not in listing.unreadable
    }
    for path in listing.files:
        if not is_misnamed(path) and _top(path) in files and "/" in path:
            files[_top(path)].append(path)
    faults = (*_faults(name, listing, files), *missing)
    if not files:
        raise UserError("\n\n".join(map(str, faults)))
    return Layout(
        files=files,
        faults=faults,
        notes=tuple(_notes(name, listing, files, groups)),
        ignored=tuple(map(escaped, listing.ignored)),
        groups=None if missing else groups,
    )


def find_misnamed(folder: Path) -> Finding | None:
    """Find names that break DVC or other programs."""
    return _misnamed(escaped(name_of(folder)), list_files(folder))


def name_of(folder: Path) -> str:
    """Return a folder's name, even for the working directory."""
    return folder.name or folder.resolve().name


def ignored_files(ignored: Iterable[str]) -> str:
    """Count ignored files and folders by name, such as `.DS_Store (3), Thumbs.db (1)`."""
    names = Counter(PurePosixPath(path).name for path in ignored)
    first = [f"{name} ({number})" for name, number in names.most_common(5)]
    more = [f"{len(names) - len(first)} other names"] if len(names) > len(first) else []
    return ", ".join(first + more)


def _top(path: str) -> str:
    return path.partition("/")[0]


def _without_group_file(
    name: str, listing: Listing, groups: GroupRule | None
) -> tuple[Listing, tuple[Finding, ...]]:
    """Take the CSV file of groups off the list, or state that it is missing."""
    if not isinstance(groups, FileGroups):
        return listing, ()
    if groups.file not in listing.files:
        fault = f"{name}/ has no {escaped(groups.file)}, which params.yaml data.groups names"
        return listing, (Finding(f"{fault}: add it, or change data.groups"),)
    files = [path for path in listing.files if path != groups.file]
    return replace(listing, files=files), ()


def _no_classes(name: str, listing: Listing) -> str:
    if not listing.files:
        return f"{name}/ has no images: {_shape(name)}"
    loose = Finding(
        f"files outside a class folder ({_shape(name)})",
        tuple(f"{name}/{escaped(path)}" for path in listing.files),
    )
    return str(loose)


def _shape(name: str) -> str:
    return f"images belong in {name}/<class>/"


def _faults(name: str, listing: Listing, files: dict[str, list[str]]) -> Iterator[Finding]:
    if unreadable := [f"{name}/{escaped(path)}" for path in listing.unreadable]:
        yield Finding(
            "folders that cannot be read", tuple(unreadable), f"Allow it: `chmod -R u+rX {name}`"
        )
    if misnamed := _misnamed(name, listing):
        yield misnamed
    if loose := [path for path in listing.files if "/" not in path and not is_misnamed(path)]:
        yield Finding(
            f"files outside a class folder ({_shape(name)})",
            tuple(f"{name}/{path}" for path in loose),
            "Move or remove them",
        )
    if len(listing.folders) == 1:
        yield Finding(
            f"{name}/ has only one class, {escaped(listing.folders[0])!r}: "
            f"a classifier needs two ({_shape(name)})"
        )
    elif _are_splits(files):
        yield Finding(_divided_already(name, files))
    with_files = {_top(path) for path in (*listing.files, *listing.unreadable)}
    if empty := [f"{name}/{of_class}" for of_class in files if of_class not in with_files]:
        yield Finding("class folders without images: fill or remove them", tuple(empty))


def _are_splits(names: Iterable[str]) -> bool:
    return all(name.lower() in _SPLITS for name in names)


def _divided_already(name: str, files: dict[str, list[str]]) -> str:
    """Explain how to restructure train/<class> and val/<class>."""
    splits = " and ".join(f"{name}/{split}" for split in files)
    classes = sorted(
        {path.split("/")[1] for paths in files.values() for path in paths if path.count("/") > 1}
    )
    problem = f"{splits} are splits, not classes. Crossfold makes the splits itself: {_shape(name)}"
    if not classes:
        return problem
    first, split = classes[0], next(iter(files))
    return (
        f"{problem}. The classes seem to be {_some(classes)}: move {name}/{split}/{first} to "
        f"{name}/{first}/{split}, and so on (`mkdir {name}/{first}; mv {name}/{split}/{first} "
        f"{name}/{first}/{split}`). Folders in a class folder belong to the class"
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _misnamed(name: str, listing: Listing) -> Finding | None:
    """List the shortest misnamed paths, each with the reason."""
    reasons = {}
    for path in (*listing.files, *listing.folders, *listing.unreadable):
        parts = path.split("/")
        bad = next((number for number, part in enumerate(parts) if is_misnamed(part)), None)
        if bad is not None:
            not_utf8 = any("\ud800" <= character <= "\udfff" for character in parts[bad])
            shortest = "/".join(parts[: bad + 1])
            reasons[shortest] = "not UTF-8" if not_utf8 else "control characters"
    if not reasons:
        return None
    return Finding(
        "names that are not UTF-8 or have control characters",
        tuple(f"{name}/{escaped(path)}: {reason}" for path, reason in sorted(reasons.items())),
        "DVC and other programs fail on them: rename these files and folders. If all are Latin-1: "
        f"`convmv -r -f latin1 -t utf8 --notest {name}`",
    )


def _notes(
    name: str, listing: Listing, files: dict[str, list[str]], groups: GroupRule | None
) -> Iterator[Finding]:
    if twins := list(_twins(name, listing)):
        yield Finding(
            "names that differ only by upper and lower case, or by Unicode form",
            tuple(twins),
            "macOS and Windows treat both as one file or folder and keep only one: rename one",
        )
    subfolders = {of_class: _subfolders(paths) for of_class, paths in files.items()}
    same = next(iter(subfolders.values()), frozenset())
    if groups == FOLDER or len(same) < 2 or _are_splits(files):
        return
    if set(subfolders.values()) == {same}:
        yield Finding(
            f"every class folder has the same folders: {_some(sorted(same))}. They count as "
            f"parts of the class. If they are the classes, {_shape(name)}"
        )


def _subfolders(paths: list[str]) -> frozenset[str]:
    """List a class folder's subfolders, if no image lies outside them."""
    parts = [path.split("/") for path in paths]
    if any(len(names) == 2 for names in parts):
        return frozenset()
    return frozenset(names[1] for names in parts)


def _twins(folder: str, listing: Listing) -> Iterator[str]:
    """Find names in one folder that differ only by case or Unicode form."""
    named: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for path in (*listing.files, *listing.folders):
        parent = f"{folder}/"
        for part in path.split("/"):
            named[parent, _comparable(part)].add(part)
            parent += f"{part}/"
    for (parent, _), names in sorted(named.items()):
        if len(names) > 1:
            forms = {unicodedata.normalize("NFC", name) for name in names}
            reason = " (Unicode form)" if len(forms) < len(names) else ""
            yield escaped(" and ".join(f"{parent}{name}" for name in sorted(names))) + reason


def _comparable(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
