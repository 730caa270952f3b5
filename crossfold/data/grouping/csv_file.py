"""Read the CSV file that gives each image's group."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from crossfold.data.layout import Finding
from crossfold.data.listing import escaped
from crossfold.imaging.decoding import BadImage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crossfold.data.image_source import ImageSource

COLUMNS = ("path", "group")

_Row = tuple[int, str, str]  # number of its line, path, group


def read_groups(
    name: str, source: ImageSource, paths: Sequence[str]
) -> tuple[dict[str, str], tuple[Finding, ...]]:
    """Read a UTF-8 file with the columns path (below the folder) and group, and maybe others.

    Args:
        name: The file's name in the folder of the classes.
        source: The folder.
        paths: The paths of the images, each of which needs a line.

    Returns:
        The group of each image, and the file's faults.
    """
    place = f"{source.name}/{name}"
    try:
        rows = list(_rows(source.read(name).decode("utf-8-sig")))
    except (BadImage, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return {}, (Finding(f"{place} cannot be read: {reason}"),)
    except UnicodeDecodeError as error:
        return {}, (Finding(f"{place} is not UTF-8 (byte {error.start}): save it as CSV in UTF-8"),)
    except csv.Error as error:
        return {}, (Finding(f"{place}: {error}"),)
    groups = {path: group for _, path, group in rows}
    return groups, tuple(_faults(place, rows, paths))


def _rows(text: str) -> Iterator[_Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    columns = [column.strip() for column in reader.fieldnames or ()]
    reader.fieldnames = columns
    if missing := [column for column in COLUMNS if column not in columns]:
        raise csv.Error(
            f"the first line has no column {' and no column '.join(missing)}. Write a first line "
            "`path,group`, with commas between the columns"
        )
    for row in reader:
        yield reader.line_num, row["path"] or "", (row["group"] or "").strip()


def _faults(place: str, rows: Sequence[_Row], paths: Sequence[str]) -> Iterator[Finding]:
    known, listed = set(paths), {path for _, path, _ in rows}
    seen: set[str] = set()
    twice, unknown, empty = [], [], []
    for number, path, group in rows:
        line = f"line {number}: {escaped(path)}"
        if path not in known:
            unknown.append(line)
        elif path in seen:
            twice.append(line)
        elif not group:
            empty.append(line)
        seen.add(path)
    if missing := [path for path in paths if path not in listed]:
        yield Finding(
            f"{len(missing)} of {len(paths)} images are not in {place}",
            tuple(missing),
            "Add a line for each. An image alone in its group needs one, too",
        )
    if unknown:
        yield Finding(
            f"{place}: {len(unknown)} paths are no images of a class",
            tuple(unknown),
            "Write paths below the folder, such as cat/1.jpg, or remove these lines",
        )
    if twice:
        yield Finding(
            f"{place}: {len(twice)} paths are listed again", tuple(twice), "Keep one line of each"
        )
    if empty:
        yield Finding(f"{place}: {len(empty)} images have no group", tuple(empty), "Name a group")
