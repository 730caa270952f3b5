"""Read the CSV files that lie beside the images and say something about each of them."""

from __future__ import annotations

import csv
import io
from sys import intern
from typing import TYPE_CHECKING, NamedTuple

from crossfold.imaging.decoding import BadImage

from .layout import Finding
from .listing import escaped

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from crossfold.data.image_source import ImageSource


class Row(NamedTuple):
    """A row of a CSV file with the column `path`, the image's path below the folder.

    Without a dictionary, of which a million rows take 180 MB.
    """

    line: int  # number of its last line, from 1
    columns: tuple[str, ...]  # the asked ones, `path` first
    values: tuple[str, ...]  # "" where the row has none

    @property
    def path(self) -> str:
        """The image's path."""
        return self.values[0]

    @property
    def cells(self) -> dict[str, str]:
        """The values by column."""
        return dict(zip(self.columns, self.values, strict=True))

    def __str__(self) -> str:
        return f"line {self.line}: {self.path}"


class CsvTable(NamedTuple):
    """The rows of a CSV file.

    Attributes:
        place: the file's path as messages have it, such as `data/labels.csv`.
        columns: those asked for that the file has.
        rows: in the file's order.
    """

    place: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read_csv(
    name: str, source: ImageSource, required: Sequence[str], optional: Sequence[str] = ()
) -> CsvTable | Finding:
    """Read a UTF-8 file with commas whose first line names its columns; others are ignored.

    Spaces around cells are dropped, except around those of `path`.

    Args:
        name: the file's name in the folder of the images.
        source: the folder.
        required: the columns that the file must have, `path` first.
        optional: columns that it may have.

    Returns:
        The table, or the reason why there is none.
    """
    place = f"{source.name}/{escaped(name)}"
    try:
        columns, rows = _parse(source.read(name), required, optional)
    except (BadImage, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return Finding(f"{place} cannot be read: {reason}")
    except UnicodeDecodeError as error:
        return Finding(f"{place} is not UTF-8 (byte {error.start}): save it as CSV in UTF-8")
    except csv.Error as error:
        return Finding(f"{place}: {error}")
    return CsvTable(place, columns, rows)


def _parse(
    content: bytes, required: Sequence[str], optional: Sequence[str]
) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    content.decode("utf-8")  # for an error that counts bytes from the start
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")
    reader = csv.DictReader(text, strict=True, skipinitialspace=True)
    present = [column.strip() for column in reader.fieldnames or ()]
    reader.fieldnames = present
    if missing := [column for column in required if column not in present]:
        raise csv.Error(
            f"the first line has no column {' and no column '.join(missing)}. Write a first line "
            f"`{','.join(required)}`, with commas between the columns"
        )
    columns = tuple(column for column in (*required, *optional) if column in present)
    rows = []
    for row in reader:
        path, *others = (row[column] or "" for column in columns)
        # Millions of rows share few labels, groups and splits.
        rows.append(Row(reader.line_num, columns, (path, *(intern(c.strip()) for c in others))))
    return columns, tuple(rows)


def faulty_rows(
    table: CsvTable, problem: str, applies: Callable[[Row], bool], advice: str, column: str = ""
) -> Iterator[Finding]:
    """List the rows to which a problem applies, with their cell of a column, if one is named."""
    rows = [row for row in table.rows if applies(row)]
    if rows:
        lines = [_WithCell(row, column) for row in rows] if column else rows
        yield Finding(f"{table.place}: {len(rows)} images {problem}", tuple(lines), advice)


class _WithCell(NamedTuple):
    row: Row
    column: str

    def __str__(self) -> str:
        return f"{self.row} ({self.row.cells[self.column]!r})"


def unknown_paths(table: CsvTable, known: Collection[str], what: str) -> Iterator[Finding]:
    """List the rows whose path is not known; `what` describes what it then is not."""
    if unknown := [row for row in table.rows if row.path not in known]:
        yield Finding(
            f"{table.place}: {len(unknown)} paths are no {what}",
            tuple(unknown),
            "Write paths below the folder, such as cat/1.jpg, or remove these lines",
        )


def repeated_paths(table: CsvTable) -> Iterator[Finding]:
    """List the rows whose path an earlier row has."""
    seen: set[str] = set()
    twice = []
    for row in table.rows:
        if row.path in seen:
            twice.append(row)
        seen.add(row.path)
    if twice:
        yield Finding(
            f"{table.place}: {len(twice)} paths are listed again",
            tuple(twice),
            "Keep one line of each",
        )
