"""The table of examples: every image of a data version with its label, split and fold.

One Parquet file with the columns path (str, below the data folder), image (the file's bytes), label
(int32), content_hash (str), split (str) and fold (int32), in row groups small enough to hold in
memory, sorted by path.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crossfold.imaging import decoding
from crossfold.step.concurrency import in_order
from crossfold.step.files import replaced_whole

from .findings import DataFacts
from .splits import TEST as TEST
from .splits import TRAIN as TRAIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crossfold.imaging.preprocessing import Preprocessing

_SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in (
            ("path", pa.string()),
            ("image", pa.binary()),
            ("label", pa.int32()),
            ("content_hash", pa.string()),
            ("split", pa.string()),
            ("fold", pa.int32()),
        )
    ]
)
NO_FACTS = DataFacts()
_MAX_ROWS = 1024
_MAX_BYTES = 32 * 2**20
# Larger batches are no faster: 32 images' activations of a layer still fit the processor's cache.
BATCH_SIZE = 32

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class Example(NamedTuple):
    """A row of the table."""

    path: str
    image: bytes
    label: int
    content_hash: str
    split: str
    fold: int


def write_examples(
    path: Path,
    rows: Iterable[Example],
    *,
    classes: tuple[str, ...],
    data_hash: str,
    num_folds: int,
    skipped: tuple[str, ...] = (),
    facts: DataFacts = NO_FACTS,
) -> None:
    """Write the table as a stream, in the order of `rows`; leave no file on failure."""
    about = {
        "classes": classes,
        "data_hash": data_hash,
        "num_folds": num_folds,
        "skipped": skipped,
        "facts": facts.model_dump(),
    }
    schema = _SCHEMA.with_metadata({b"crossfold": json.dumps(about).encode()})
    # A dictionary or statistics of the image column would hold whole images.
    options = {"use_dictionary": ["split"], "write_statistics": ["label", "fold"]}
    with replaced_whole(path) as part, pq.ParquetWriter(part, schema, **options) as writer:
        for group in _row_groups(rows):
            columns = [list(column) for column in zip(*group, strict=True)]
            writer.write_table(pa.table(columns, schema=schema))


def _row_groups(rows: Iterable[Example]) -> Iterator[list[Example]]:
    group: list[Example] = []
    num_bytes = 0
    for row in rows:
        group.append(row)
        num_bytes += len(row.image)
        if len(group) == _MAX_ROWS or num_bytes >= _MAX_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


class Examples:
    """The table at `path`, or one shard of it, read as a stream.

    A shard is a run of row groups; the shards, in order, are the table. One may be empty.

    Attributes:
        classes: the names of the classes; a label is an index into them.
        data_hash: the MD5 of the data version in data.dvc.
        num_folds: the number of folds of the train split.
        skipped: a line for each image that was left out.
        facts: the findings about the images.
    """

    def __init__(self, path: Path, shard: int = 0, num_shards: int = 1) -> None:
        self._path = path
        metadata = pq.read_metadata(path)
        bounds = (metadata.num_row_groups * n // num_shards for n in (shard, shard + 1))
        self._groups = range(*bounds)
        about: dict[str, Any] = json.loads(metadata.metadata[b"crossfold"])
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.data_hash: str = about["data_hash"]
        self.num_folds: int = about["num_folds"]
        self.skipped: tuple[str, ...] = tuple(about["skipped"])
        self.facts = DataFacts.model_validate(about["facts"])

    def count(self, split: str | None) -> int:
        """Count the images in `split`, or all of them."""
        return len(self.column("label", split))

    def column(self, name: str, split: str | None) -> NDArray[Any]:
        """Read one column in the table's order; of the file, only this column and `split`.

        Returns:
            [N], int32 for numbers, otherwise objects.
        """
        with pq.ParquetFile(self._path) as file:
            table = file.read_row_groups(list(self._groups), columns=list({name, "split"}))
        return np.asarray(_only(table, split).column(name).to_numpy())

    def images(self, split: str | None, indices: Sequence[int]) -> list[bytes]:
        """Read the files of some images, by their positions in `split`, in the given order.

        Reads only row groups with one of these images, and holds one group in memory.
        """
        wanted, start = set(indices), 0
        files: dict[int, bytes] = {}
        with pq.ParquetFile(self._path) as file:
            for group in self._groups:
                splits = file.read_row_group(group, columns=["split"])
                inside = range(start, start + len(_only(splits, split)))
                start = inside.stop
                if here := sorted(wanted.intersection(inside)):
                    table = _only(file.read_row_group(group, columns=["image", "split"]), split)
                    rows = table.column("image").take([index - inside.start for index in here])
                    files.update(zip(here, rows.to_pylist(), strict=True))
        return [files[index] for index in indices]

    def batches(
        self, split: str | None, batch_size: int
    ) -> Iterator[tuple[list[str], list[bytes], NDArray[np.int64]]]:
        """Yield paths, files and labels (int64 [n]) of at most `batch_size` images at a time.

        A batch never reaches into the next row group. A shard therefore has the same batches as
        the whole table, and results the same last digits, which depend on the size of a batch.
        Holds one row group in memory.
        """
        names = ["path", "image", "label"]
        with pq.ParquetFile(self._path) as file:
            for group in self._groups:
                table = _only(file.read_row_group(group, columns=[*names, "split"]), split)
                for start in range(0, len(table), batch_size):
                    rows = table.slice(start, batch_size)
                    paths, images, labels = (rows.column(name).to_pylist() for name in names)
                    yield paths, images, np.asarray(labels, np.int64)

    def decoded_batches(
        self, split: str | None, preprocessing: Preprocessing, num_threads: int
    ) -> Iterator[tuple[list[str], Pixels, NDArray[np.int64]]]:
        """Yield paths, pixels (uint8 [B, S, S, 3]) and labels (int64 [B]), decoded in threads."""
        decode = partial(decoding.square, preprocessing=preprocessing)
        for paths, encoded, labels in self.batches(split, BATCH_SIZE):
            yield paths, np.stack(list(in_order(decode, encoded, num_threads))), labels


def _only(table: pa.Table, split: str | None) -> pa.Table:
    return table if split is None else table.filter(pc.equal(table.column("split"), split))
