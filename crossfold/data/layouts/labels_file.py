"""Read the CSV file that lists the images with their labels, and maybe groups and splits."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from crossfold.data.grouping.rule import FOLDER, FileGroups
from crossfold.errors import UserError

from .csv_table import faulty_rows, read_csv, repeated_paths, unknown_paths
from .given_splits import NAMES, describe_use, is_split, is_test
from .layout import Finding, Layout, comparable, folder_faults, folder_notes
from .listing import escaped, is_misnamed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from crossfold.data.grouping.rule import GroupRule
    from crossfold.data.image_source import ImageSource

    from .csv_table import CsvTable
    from .listing import Listing

COLUMNS = ("path", "label")
OPTIONAL = ("group", "split")


def read_labels(
    file: str, source: ImageSource, listing: Listing, groups: GroupRule | None
) -> Layout:
    """Find the classes in a CSV file with the columns path and label, and maybe group and split.

    Files that it does not list are left out and counted.

    Args:
        file: the setting `data.labels`, the file's name in the folder.
        source: the folder.
        listing: the folder's files, without CSV files that settings name.
        groups: the setting `data.groups`.

    Raises:
        UserError: the file cannot be read, or lists no image.
    """
    table = read_csv(file, source, COLUMNS, OPTIONAL)
    if isinstance(table, Finding):
        raise UserError(str(table))
    present = set(listing.files)
    files: dict[str, list[str]] = {}
    for row in sorted(table.rows, key=lambda row: row.path):
        label = row.cells["label"]
        if row.path in present and label and not is_misnamed(row.path) and not is_misnamed(label):
            files.setdefault(label, []).append(row.path)
    faults = (*folder_faults(source.name, listing), *_faults(table, present, files, groups))
    if not files:
        raise UserError("\n\n".join(map(str, faults)) or f"{table.place} lists no images")
    return Layout(
        files={name: sorted(set(files[name])) for name in sorted(files)},
        faults=faults,
        notes=(*folder_notes(source.name, listing), *_similar_labels(files)),
        ignored=tuple(map(escaped, listing.ignored)),
        groups=FileGroups(file=file) if "group" in table.columns else groups,
        given_test=frozenset(row.path for row in table.rows if is_test(row.cells.get("split", ""))),
        usage=tuple(_usage(table, present)),
    )


def _usage(table: CsvTable, present: set[str]) -> Iterator[str]:
    listed = {row.path for row in table.rows}
    left_out = len(present - listed)
    files = f"{left_out} file{' is' if left_out == 1 else 's are'} not listed and left out"
    yield f"labels are the column label of {table.place}" + (f"; {files}" if left_out else "")
    if "split" in table.columns:
        names = {row.cells["split"] for row in table.rows}
        ordered = sorted(filter(is_split, names), key=lambda name: NAMES.index(name.lower()))
        if ordered:
            yield f"splits by the column split: {describe_use(ordered, 'split')}"


def _faults(
    table: CsvTable, present: set[str], files: dict[str, list[str]], groups: GroupRule | None
) -> Iterator[Finding]:
    if "group" in table.columns and groups:
        yield Finding(
            f"groups are given twice: by the column group of {table.place} and by data.groups. "
            "Remove one of them"
        )
    elif groups == FOLDER:
        yield Finding(
            "data.groups: folder needs images in <class>/<group>/, and with data.labels the class "
            f"is no folder. Add a column group to {table.place}, or set data.groups to a pattern"
        )
    yield from unknown_paths(table, present, "files of the folder")
    yield from repeated_paths(table)
    yield from faulty_rows(
        table, "have no label", lambda row: not row.cells["label"], "Name the class"
    )
    yield from faulty_rows(
        table,
        "have a label with control characters",
        lambda row: is_misnamed(row.cells["label"]),
        "Rename the class",
    )
    if "split" in table.columns:
        yield from faulty_rows(
            table,
            "have an unknown split",
            lambda row: not is_split(row.cells["split"]),
            f"A split is one of {', '.join(NAMES)}",
            column="split",
        )
    if len(files) == 1:
        yield Finding(
            f"{table.place} has only one class, '{next(iter(files))}': a classifier needs two"
        )


def _similar_labels(labels: Iterable[str]) -> Iterator[Finding]:
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for label in sorted(labels):
        alike[comparable(label)].append(label)
    lines = tuple(" and ".join(names) for names in alike.values() if len(names) > 1)
    if lines:
        yield Finding(
            "labels that differ only by upper and lower case, or by Unicode form",
            lines,
            "They count as different classes: write each class in one way",
        )
