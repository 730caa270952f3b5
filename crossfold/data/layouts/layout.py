"""Find the classes of a folder of images, and faults in its layout."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from crossfold.data.grouping.rule import FOLDER, file_of
from crossfold.errors import UserError
from crossfold.versioning.dvc import listed

from .given_splits import describe_use, has_split_folders, is_split, is_test
from .listing import escaped, is_misnamed, list_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from crossfold.data.grouping.rule import GroupRule

    from .listing import Listing


@dataclass(frozen=True)
class Finding:
    """A message about several files or folders, with a line for each.

    Its texts may have names as they are: `str` escapes what a terminal cannot show.

    Attributes:
        about: what is wrong, or worth a look.
        lines: become text in `str` only, which shows the first ones of maybe a million.
        advice: what to do about it.
    """

    about: str
    lines: tuple[object, ...] = ()
    advice: str = ""

    def __str__(self) -> str:
        about, advice = escaped(self.about), escaped(self.advice)
        if not self.lines:
            return about
        return f"{about}:\n{listed(self.lines, _written)}" + (advice and f"\n{advice}")


def _written(line: object) -> str:
    return escaped(str(line))


@dataclass(frozen=True)
class Layout:
    """The files of each class, and the faults.

    Attributes:
        files: class -> paths below the folder, sorted; all names can be written anywhere.
        faults: problems that prevent training.
        notes: possible mistakes.
        ignored: hidden files and system files, see `listing.is_system_file`.
        groups: how to find an image's group; None without groups, or without their file.
        given_test: paths of a given test split; empty if one is to be held out.
        usage: sentences on what was recognised and how it is used.
        class_depth: which folder of a path is the class, from 1, unless a CSV file names classes.
        excluded: paths of the images that `data.exclude` leaves out; they are not in `files`.
    """

    files: dict[str, list[str]]
    faults: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    ignored: tuple[str, ...]
    groups: GroupRule | None = None
    given_test: frozenset[str] = frozenset()
    usage: tuple[str, ...] = ()
    class_depth: int = 1
    excluded: frozenset[str] = frozenset()

    @property
    def classes(self) -> dict[str, str]:
        """The class of each image, by its path."""
        return {path: name for name, paths in self.files.items() for path in paths}

    def test_share(self, test_fraction: float) -> float:
        """Compute the share of the images in the test split; `test_fraction` unless it is given."""
        if not self.given_test:
            return test_fraction
        return len(self.given_test) / max(1, len(self.classes))


def read_layout(folder: Path, groups: GroupRule | None = None) -> Layout:
    """Find the classes of a folder with one subfolder per class.

    Raises:
        UserError: there is no such folder, it cannot be read, or none in it can be a class.
    """
    return judge_layout(name_of(folder), list_folder(folder), groups)


def list_folder(folder: Path) -> Listing:
    """List the files of a folder of images.

    Raises:
        UserError: there is no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{escaped(str(folder))} is not a folder")
    listing = list_files(folder)
    if "." in listing.unreadable:
        raise UserError(f"{escaped(str(folder))} cannot be read: permission denied")
    return listing


def judge_layout(folder: str, listing: Listing, groups: GroupRule | None = None) -> Layout:
    """Find the classes among the files of a folder with this name.

    Classes lie in it, or in folders that are all named like splits: `train/<class>`. A CSV file of
    groups may lie beside them.

    Raises:
        UserError: no folder can be a class.
    """
    name = escaped(folder)
    listing, absent = take_files(name, listing, {"data.groups": file_of(groups)})
    missing = tuple(absent.values())
    if not listing.folders:
        raise UserError(_no_classes(name, listing))
    depth = 2 if has_split_folders(listing) else 1
    files = _files_of_classes(listing, depth)
    faults = (*folder_faults(name, listing), *_faults(name, listing, files, depth), *missing)
    if not files:
        raise UserError("\n\n".join(map(str, faults)))
    splits = [f"{name}/{escaped(split)}" for split in listing.folders] if depth == 2 else []
    return Layout(
        files=files,
        faults=faults,
        notes=(*folder_notes(name, listing), *_notes(name, files, groups, depth)),
        ignored=tuple(map(escaped, listing.ignored)),
        groups=None if missing else groups,
        given_test=frozenset(
            path for paths in files.values() for path in paths if depth == 2 and is_test(_top(path))
        ),
        usage=(f"splits by folder: {describe_use(splits, 'folder')}",) if splits else (),
        class_depth=depth,
    )


def _files_of_classes(listing: Listing, depth: int) -> dict[str, list[str]]:
    """List the files of each class, by the folder at a depth; empty classes in the first only."""
    tops = [] if depth > 1 else listing.folders
    files: dict[str, list[str]] = {
        name: [] for name in tops if not is_misnamed(name) and name not in listing.unreadable
    }
    for path in listing.files:
        parts = path.split("/")
        if len(parts) > depth and not is_misnamed(path):
            files.setdefault(parts[depth - 1], []).append(path)
    return dict(sorted(files.items()))


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


def take_files(
    name: str, listing: Listing, files: Mapping[str, str | None]
) -> tuple[Listing, dict[str, Finding]]:
    """Take the CSV files that settings name off the list.

    Args:
        name: the folder's name, as messages have it.
        listing: the folder's files.
        files: setting -> its file, or None.

    Returns:
        The other files, and a finding for each setting whose file is missing.
    """
    missing = {
        setting: Finding(
            f"{name}/ has no {file}, which params.yaml {setting} names: add it, or change {setting}"
        )
        for setting, file in files.items()
        if file is not None and file not in listing.files
    }
    named = set(files.values())
    return replace(listing, files=[path for path in listing.files if path not in named]), missing


def _no_classes(name: str, listing: Listing) -> str:
    if not listing.files:
        return f"{name}/ has no images: {_shape(name)}"
    loose = Finding(
        f"files outside a class folder ({_shape(name)})",
        tuple(f"{name}/{path}" for path in listing.files),
    )
    return str(loose)


def _shape(name: str) -> str:
    return f"images belong in {name}/<class>/"


def folder_faults(name: str, listing: Listing) -> Iterator[Finding]:
    """Find faults that a folder may have whatever is in it: unreadable, unusable names."""
    if unreadable := [f"{name}/{path}" for path in listing.unreadable]:
        yield Finding(
            "folders that cannot be read", tuple(unreadable), f"Allow it: `chmod -R u+rX {name}`"
        )
    if misnamed := _misnamed(name, listing):
        yield misnamed


def _faults(
    name: str, listing: Listing, files: dict[str, list[str]], depth: int
) -> Iterator[Finding]:
    shape = f"images belong in {name}/{listing.folders[0]}/<class>/" if depth > 1 else _shape(name)
    loose = [path for path in listing.files if path.count("/") < depth and not is_misnamed(path)]
    if loose:
        advice = "Move or remove them"
        if table := next((path for path in loose if path.lower().endswith(".csv")), None):
            advice += (
                f". If {table} lists the labels, set data.labels to its name; if it corrects "
                "some of them, data.exclude or data.relabel"
            )
        yield Finding(
            f"files outside a class folder ({shape})",
            tuple(f"{name}/{path}" for path in loose),
            advice,
        )
    classes = list(files) if depth > 1 else listing.folders
    if len(classes) == 1:
        yield Finding(
            f"{name}/ has only one class, '{classes[0]}': a classifier needs two ({shape})"
        )
    elif depth == 1 and all(map(is_split, files)):
        splits = " and ".join(f"{name}/{split}" for split in files)
        yield Finding(
            f"{splits} are splits, not classes, and no classes lie in them: {_shape(name)} or "
            f"{name}/{next(iter(files), 'train')}/<class>/"
        )
    with_files = {_top(path) for path in (*listing.files, *listing.unreadable)}
    kind = "folders" if depth > 1 else "class folders"
    if empty := [
        f"{name}/{top}" for top in listing.folders if not (is_misnamed(top) or top in with_files)
    ]:
        yield Finding(f"{kind} without images: fill or remove them", tuple(empty))


def first_names(names: Sequence[str]) -> str:
    """Join the first five names, and count the others."""
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
        tuple(f"{name}/{path}: {reason}" for path, reason in sorted(reasons.items())),
        "DVC and other programs fail on them: rename these files and folders. If all are Latin-1: "
        f"`convmv -r -f latin1 -t utf8 --notest {name}`",
    )


def folder_notes(name: str, listing: Listing) -> Iterator[Finding]:
    """Find possible mistakes in the names of files and folders."""
    if twins := list(_twins(name, listing)):
        yield Finding(
            "names that differ only by upper and lower case, or by Unicode form",
            tuple(twins),
            "macOS and Windows treat both as one file or folder and keep only one: rename one",
        )


def _notes(
    name: str, files: dict[str, list[str]], groups: GroupRule | None, depth: int
) -> Iterator[Finding]:
    subfolders = {of_class: _subfolders(paths) for of_class, paths in files.items()}
    same = next(iter(subfolders.values()), frozenset())
    if groups == FOLDER or len(same) < 2 or depth > 1:
        return
    if set(subfolders.values()) == {same}:
        yield Finding(
            f"every class folder has the same folders: {first_names(sorted(same))}. They count as "
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
            named[parent, comparable(part)].add(part)
            parent += f"{part}/"
    for (parent, _), names in sorted(named.items()):
        if len(names) > 1:
            forms = {unicodedata.normalize("NFC", name) for name in names}
            reason = " (Unicode form)" if len(forms) < len(names) else ""
            yield " and ".join(f"{parent}{name}" for name in sorted(names)) + reason


def comparable(name: str) -> str:
    """Make names equal that differ only by case or Unicode form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
