"""Find the name of each image's group."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from crossfold.data.layouts.layout import Finding

from .csv_file import read_groups
from .rule import FileGroups, GroupRule, PatternGroups

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from crossfold.data.image_source import ImageSource


@dataclass(frozen=True)
class Grouping:
    """The group of each image, by its path, and the reasons why some images have none.

    A name is the same group everywhere: a patient may have images in two classes.
    """

    rule: GroupRule | None = None
    names: dict[str, str] = field(default_factory=dict)
    faults: tuple[Finding, ...] = ()


NO_GROUPING = Grouping()


def find_groups(
    rule: GroupRule | None,
    source: ImageSource,
    paths: Sequence[str],
    class_depth: int = 1,
    excluded: Collection[str] = (),
) -> Grouping:
    """Find the group of every image; no names without a rule.

    Args:
        rule: The setting `data.groups`.
        source: The images, and the CSV file beside them.
        paths: The paths of the images.
        class_depth: Which folder of a path is the class, from 1.
        excluded: The paths of excluded images, which a CSV file may still list.
    """
    if rule is None:
        return NO_GROUPING
    if isinstance(rule, FileGroups):
        names, faults = read_groups(rule.file, source, paths, excluded)
        return Grouping(rule, names, faults)
    if isinstance(rule, PatternGroups):
        found = {path: _matched(rule.pattern, path) for path in paths}
        about = f"file names do not match data.groups.pattern {rule.pattern}"
        advice = "Change the pattern so that it finds a group in every name, or rename these files"
    else:
        found = {path: _subfolder(path, class_depth) for path in paths}
        about = "images are in no folder of a group"
        advice = (
            "With data.groups: folder, images belong in "
            f"{source.name}/{'<split>/' if class_depth > 1 else ''}<class>/<group>/. "
            "Move these images into such folders"
        )
    names = {path: name for path, name in found.items() if name}
    lines = tuple(f"{source.name}/{path}" for path in paths if path not in names)
    faults = (Finding(f"{len(lines)} of {len(paths)} {about}", lines, advice),) if lines else ()
    return Grouping(rule, names, faults)


def _matched(pattern: str, path: str) -> str | None:
    """Search the file's name; an empty group counts as no match."""
    match = re.search(pattern, PurePosixPath(path).name)
    if match is None:
        return None
    (name,) = match.groupdict().values()
    return name


def _subfolder(path: str, class_depth: int) -> str | None:
    """Name the folder below the class; deeper folders belong to it."""
    parts = path.split("/")
    return parts[class_depth] if len(parts) > class_depth + 1 else None
