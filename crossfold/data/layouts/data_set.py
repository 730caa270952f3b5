"""Find the classes of a data set, by its folders or by the CSV file that describes it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from crossfold.data.grouping.rule import file_of
from crossfold.data.image_source import FolderSource
from crossfold.errors import UserError

from .corrections import NO_CORRECTIONS, correct, read_corrections
from .labels_file import read_labels
from .layout import judge_layout, list_folder, take_files

if TYPE_CHECKING:
    from pathlib import Path

    from crossfold.data.grouping.rule import GroupRule
    from crossfold.data.image_source import ImageSource

    from .corrections import CorrectionFiles
    from .layout import Layout
    from .listing import Listing


def find_layout(
    source: ImageSource,
    listing: Listing,
    groups: GroupRule | None = None,
    labels: str | None = None,
    corrections: CorrectionFiles = NO_CORRECTIONS,
) -> Layout:
    """Find the classes of a data set, and its faults.

    Args:
        source: the folder.
        listing: its files.
        groups: the setting `data.groups`.
        labels: the setting `data.labels`.
        corrections: the settings `data.exclude` and `data.relabel`.

    Raises:
        UserError: there is no class, or the CSV file of labels cannot be read.
    """
    listing, missing = take_files(source.name, listing, corrections.by_setting)
    layout = _as_given(source, listing, groups, labels)
    if missing:
        return replace(layout, faults=(*layout.faults, *missing.values()))
    return correct(layout, read_corrections(corrections, source, layout))


def _as_given(
    source: ImageSource, listing: Listing, groups: GroupRule | None, labels: str | None
) -> Layout:
    """Find the classes before any correction."""
    if labels is None:
        return judge_layout(source.name, listing, groups)
    named = {"data.labels": labels, "data.groups": file_of(groups)}
    images, missing = take_files(source.name, listing, named)
    if "data.labels" in missing:
        raise UserError(str(missing["data.labels"]))
    layout = read_labels(labels, source, images, groups)
    if not missing:
        return layout
    return replace(layout, faults=(*layout.faults, *missing.values()), groups=None)


def read_data_set(
    folder: Path,
    groups: GroupRule | None = None,
    labels: str | None = None,
    corrections: CorrectionFiles = NO_CORRECTIONS,
) -> tuple[FolderSource, Layout]:
    """Find the classes of a folder on this machine; see `find_layout`.

    Raises:
        UserError: there is no such folder, it cannot be read, or as `find_layout`.
    """
    listing = list_folder(folder)
    source = FolderSource(folder)
    return source, find_layout(source, listing, groups, labels, corrections)


def read_uncorrected(
    folder: Path, groups: GroupRule | None, labels: str | None, corrections: CorrectionFiles
) -> tuple[FolderSource, Layout]:
    """Find the classes of a folder as they are before any correction; see `read_data_set`."""
    source = FolderSource(folder)
    listing, _ = take_files(source.name, list_folder(folder), corrections.by_setting)
    return source, _as_given(source, listing, groups, labels)
