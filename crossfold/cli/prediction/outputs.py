"""Write predictions in every output format, batch by batch, with few rows in memory."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from rich.cells import cell_len
from rich.text import Text

from crossfold.errors import UserError

if TYPE_CHECKING:
    from crossfold.predict.model import Prediction


class Format(StrEnum):
    """An output format of `crossfold predict`."""

    TABLE = "table"
    LINES = "lines"
    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"
    PARQUET = "parquet"


class Row(NamedTuple):
    """An image file's path and its prediction."""

    path: str
    prediction: "Prediction"


class Shown(NamedTuple):
    """What is shown of a row: a number of classes, and its prediction set if asked for."""

    top_k: int = 1
    sets: bool = False


Write = Callable[[Sequence[Row]], None]

_BY_SUFFIX = {
    ".txt": Format.TABLE,
    ".tsv": Format.LINES,
    ".csv": Format.CSV,
    ".json": Format.JSON,
    ".jsonl": Format.JSONL,
    ".parquet": Format.PARQUET,
}
# Rows in a row group of a Parquet file; one group is held in memory.
_ROWS_IN_GROUP = 10_000
_WIDEST_PATH = 80
_NOVEL = {True: "yes", False: "no", None: "unknown"}
_IN_ONE_LINE = dict.fromkeys(map(ord, "\t\n\r"), "�")


def format_for(kind: Format | None, output: Path) -> Format:
    """Choose a file's format: the chosen one, or the one that the file name's suffix implies.

    JSON becomes an array only in a `.json` file; in any other file it becomes JSON Lines, as in
    a pipe.

    Raises:
        UserError: no format is chosen, and the suffix implies none.
    """
    by_name = _BY_SUFFIX.get(output.suffix.lower())
    if kind is Format.JSON and by_name is not Format.JSON:
        return Format.JSONL
    if found := kind or by_name:
        return found
    raise UserError(
        f"{output}: no format has this ending; choose one with --format, or end the name in "
        f"{', '.join(_BY_SUFFIX)}"
    )


@contextmanager
def writer(kind: Format, file: BinaryIO, paths: Sequence[str], shown: Shown) -> Iterator[Write]:
    """Open a writer of rows in a format; the file stays open afterwards.

    Args:
        kind: The format.
        file: The file to write to.
        paths: The paths of all rows to come, for the width of a table's first column.
        shown: What is shown of each row.

    Yields:
        A function that writes a batch of rows.
    """
    if kind is Format.PARQUET:
        with _parquet(file, shown) as write:
            yield write
    elif kind is Format.JSON:
        yield _encoded(file, _json(shown))
        file.write(b"\n]\n")
    elif kind is Format.TABLE:
        yield _encoded(file, _table_text(Table(paths, shown)))
    else:
        text = {Format.LINES: _lines, Format.CSV: _csv, Format.JSONL: _jsonl}[kind]
        yield _encoded(file, text(shown))


def _encoded(file: BinaryIO, text: Callable[[Sequence[Row]], str]) -> Write:
    """Build a writer of rows as UTF-8 text; paths that aren't UTF-8 keep their bytes."""

    def write(rows: Sequence[Row]) -> None:
        file.write(text(rows).encode("utf-8", "surrogateescape"))

    return write


def _columns(shown: Shown) -> list[str]:
    """List the columns of CSV, JSON and Parquet."""
    ranks = range(2, shown.top_k + 1)
    more = [f"{name}_{n}" for n in ranks for name in ("label", "probability")]
    sets = ["decision", "set", "novel"] if shown.sets else []
    return ["path", "label", "probability", *more, *sets, "error", "model", "version"]


def _values(row: Row, shown: Shown) -> list[Any]:
    """List a row's values in the order of `_columns`; None for a missing value."""
    prediction, num_classes = row.prediction, shown.top_k
    classes: list[Any] = [value for pair in prediction.most_likely(num_classes) for value in pair]
    classes += [None] * (2 * num_classes - len(classes))
    sets: list[Any] = [None] * 3 if shown.sets else []
    if answer := prediction.answer:
        sets = [answer.decision, list(answer.labels), answer.novel]
    return [row.path, *classes, *sets, prediction.error, prediction.model, prediction.version]


def _lines(shown: Shown) -> Callable[[Sequence[Row]], str]:
    """Build a formatter of one line per row: path, class, probability and model between tabs.

    With sets, the decision, whether the image is novel and the labels of the set follow.
    """

    def text(rows: Sequence[Row]) -> str:
        return "".join(
            "\t".join((row.path.translate(_IN_ONE_LINE), *_cells(row, shown))) + "\n"
            for row in rows
        )

    return text


def _cells(row: Row, shown: Shown) -> list[str]:
    """Format a row for people: classes and probabilities in turn, model, set; or the error."""
    prediction = row.prediction
    if prediction.error is not None:
        return [prediction.error]
    classes = prediction.most_likely(shown.top_k)
    cells = [cell for label, probability in classes for cell in (label, f"{probability:.4f}")]
    model = f"{prediction.model}/{prediction.version}" if prediction.model else ""
    if answer := prediction.answer:
        return [*cells, model, answer.decision, _NOVEL[answer.novel], ", ".join(answer.labels)]
    return [*cells, model] if model else cells


def _csv(shown: Shown) -> Callable[[Sequence[Row]], str]:
    header = [_columns(shown)]

    def text(rows: Sequence[Row]) -> str:
        lines = io.StringIO()
        table = csv.writer(lines, lineterminator="\n")
        table.writerows(header)
        header.clear()
        table.writerows(map(_csv_cell, _values(row, shown)) for row in rows)
        return lines.getvalue()

    return text


def _csv_cell(value: Any) -> Any:
    """Write what CSV has no form for as JSON: a set, and whether an image is novel."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | bool) else value


def _jsonl(shown: Shown) -> Callable[[Sequence[Row]], str]:
    """Build a formatter of one JSON object per line (https://jsonlines.org)."""
    return lambda rows: "".join(f"{row}\n" for row in _objects(rows, shown))


def _json(shown: Shown) -> Callable[[Sequence[Row]], str]:
    """Build a formatter of a JSON array, one object per line, without the closing bracket."""
    before = chain(["[\n"], repeat(",\n"))
    return lambda rows: "".join(f"{next(before)}{row}" for row in _objects(rows, shown))


def _objects(rows: Sequence[Row], shown: Shown) -> Iterator[str]:
    columns = _columns(shown)
    for row in rows:
        values = _values(row._replace(path=_utf8(row.path)), shown)
        yield json.dumps(dict(zip(columns, values, strict=True)), ensure_ascii=False)


@contextmanager
def _parquet(file: BinaryIO, shown: Shown) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = _columns(shown)
    kinds = {"set": pa.list_(pa.string()), "novel": pa.bool_()}
    kinds |= {name: pa.float64() for name in columns if name.startswith("probability")}
    schema = pa.schema([pa.field(name, kinds.get(name, pa.string())) for name in columns])
    waiting: list[list[Any]] = []
    with pq.ParquetWriter(file, schema) as table:

        def flush() -> None:
            if waiting:
                by_column = zip(*waiting, strict=True)
                table.write(pa.table(dict(zip(columns, by_column, strict=True)), schema))
                waiting.clear()

        def write(rows: Sequence[Row]) -> None:
            waiting.extend(_values(row._replace(path=_utf8(row.path)), shown) for row in rows)
            if len(waiting) >= _ROWS_IN_GROUP:
                flush()

        yield write
        flush()


class Table:
    """Rows for people, in columns with widths that are fixed before the first row."""

    def __init__(self, paths: Sequence[str], shown: Shown) -> None:
        widest = max((cell_len(_printable(path)) for path in paths), default=0)
        self._path_width = min(max(widest, len("image")), _WIDEST_PATH)
        self._shown = shown
        self._label_width = 0  # unknown until the first batch
        self._model_width = 0

    def lines(self, rows: Sequence[Row]) -> Iterator[Text]:
        """Yield a line per row; before the very first row, a line with the column names."""
        if not self._label_width:
            classes = {name for row in rows for name in row.prediction.probabilities}
            self._label_width = max(len("class"), *(cell_len(name) for name in classes), 0)
            models = (f"{row.prediction.model}/{row.prediction.version}" for row in rows)
            self._model_width = max(len("model"), *map(cell_len, models)) * self._shown.sets
            names = [*["class", "probability"] * self._shown.top_k, "model"]
            names += ["decision", "novel", "set"] if self._shown.sets else []
            yield Text(self._line("image", names), style="bold")
        for row in rows:
            style = "" if row.prediction.error is None else "red"
            yield Text(self._line(row.path, _cells(row, self._shown)), style=style)

    def _line(self, path: str, cells: Sequence[str]) -> str:
        classes = [self._label_width, len("probability")] * self._shown.top_k
        sets = [max(self._label_width, len("decision")), len("unknown"), 0]
        widths = [self._path_width, *classes, self._model_width, *sets]
        texts = [_printable(text) for text in (path, *cells)]
        padded = [
            text + " " * (width - cell_len(text))
            for text, width in zip(texts, widths, strict=False)
        ]
        return "  ".join(padded).rstrip()


def _table_text(table: Table) -> Callable[[Sequence[Row]], str]:
    return lambda rows: "".join(f"{line.plain}\n" for line in table.lines(rows))


def _printable(text: str) -> str:
    """Replace every character that could control a terminal."""
    return "".join(c if c.isprintable() else "�" for c in _utf8(text))


def _utf8(path: str) -> str:
    """Replace each byte of a path that isn't UTF-8 by the replacement character."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
