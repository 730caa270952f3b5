"""Read the CSV file that gives each image's group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossfold.data.layouts.csv_table import read_csv, repeated_paths, unknown_paths
from crossfold.data.layouts.layout import Finding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from crossfold.data.image_source import ImageSource
    from crossfold.data.layouts.csv_table import CsvTable

COLUMNS = ("path", "group")


def read_groups(
    name: str, source: ImageSource, paths: Sequence[str], excluded: Collection[str] = ()
) -> tuple[dict[str, str], tuple[Finding, ...]]:
    """Read a UTF-8 file with the columns path (below the folder) and group, and maybe others.

    Args:
        name: The file's name in the folder of the classes.
        source: The folder.
        paths: The paths of the images, each of which needs a line.
        excluded: The paths of excluded images, which may have a line.

    Returns:
        The group of each image, and the file's faults.
    """
    table = read_csv(name, source, COLUMNS)
    if isinstance(table, Finding):
        return {}, (table,)
    table = table._replace(rows=tuple(row for row in table.rows if row.path not in excluded))
    groups = {row.path: row.cells["group"] for row in table.rows}
    return groups, tuple(_faults(table, paths))


def _faults(table: CsvTable, paths: Sequence[str]) -> Iterator[Finding]:
    known, in_file = set(paths), {row.path for row in table.rows}
    if missing := [path for path in paths if path not in in_file]:
        yield Finding(
            f"{len(missing)} of {len(paths)} images are not in {table.place}",
            tuple(missing),
            "Add a line for each. An image alone in its group needs one, too",
        )
    yield from unknown_paths(table, known, "images of a class")
    yield from repeated_paths(table)
    if empty := [row for row in table.rows if row.path in known and not row.cells["group"]]:
        yield Finding(
            f"{table.place}: {len(empty)} images have no group", tuple(empty), "Name a group"
        )
