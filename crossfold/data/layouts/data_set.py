"""Find the classes of a data set, by its folders or by the CSV file that describes it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from crossfold.data.grouping.rule import FileGroups
from crossfold.data.image_source import FolderSource
from crossfold.errors import UserError

from .labels_file import read_labels
from .layout import Finding, judge_layout, list_folder
from .listing import escaped

if TYPE_CHECKING:
    from pathlib import Path

    from crossfold.data.grouping.rule import GroupRule
    from crossfold.data.image_source import ImageSource

    from .layout import Layout
    from .listing import Listing


def find_layout(
    source: ImageSource,
    listing: Listing,
    groups: GroupRule | None = None,
    labels: str | None = None,
) -> Layout:
    """Find the classes of a data set, and its faults.

    Args:
        source: the folder.
        listing: its files.
        groups: the setting `data.groups`.
        labels: the setting `data.labels`.

    Raises:
        UserError: there is no class, or the CSV file cannot be read.
    """
    if labels is None:
        return judge_layout(source.name, listing, groups)
    if labels not in listing.files:
        raise UserError(
            f"{source.name}/ has no {escaped(labels)}, which params.yaml data.labels names: add "
            "it, or change data.labels"
        )
    groups_file = groups.file if isinstance(groups, FileGroups) else None
    images = [path for path in listing.files if path not in (labels, groups_file)]
    layout = read_labels(labels, source, replace(listing, files=images), groups)
    if groups_file is None or groups_file in listing.files:
        return layout
    missing = Finding(
        f"{source.name}/ has no {escaped(groups_file)}, which params.yaml data.groups names: add "
        "it, or change data.groups"
    )
    return replace(layout, faults=(*layout.faults, missing), groups=None)


def read_data_set(
    folder: Path, groups: GroupRule | None = None, labels: str | None = None
) -> tuple[FolderSource, Layout]:
    """Find the classes of a folder on this machine; see `find_layout`.

    Raises:
        UserError: there is no such folder, it cannot be read, or as `find_layout`.
    """
    listing = list_folder(folder)
    source = FolderSource(folder)
    return source, find_layout(source, listing, groups, labels)
