"""The table of examples: every image of a data version with its label, split and fold.

One Parquet file with the columns path (str, below the data folder), image (the file's bytes, or
null), label (int32), content_hash (str), split (str), fold (int32), group (int32), num_bytes
(int32, of the file), width and height (int32, of the file's pixels, upright), camera (str, make and
model by EXIF, or empty) and format (str, as Pillow names it), and a column for each square geometry
(see `SquareGeometry`): the raw pixels of the image's square, or null.

Images with the same number as `group` belong together: copies, images of one patient.

A test image has its file and no square. A training image has its square of each geometry and no
file, unless a square is larger than the file in pixels and bytes: it has its file instead of that
square. Row groups are small enough to hold in memory.
"""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crossfold.data.examination.findings import DataFacts
from crossfold.errors import UserError
from crossfold.imaging import decoding
from crossfold.imaging.preprocessing import SquareGeometry, read_geometries
from crossfold.step.concurrency import in_order
from crossfold.step.files import replaced_whole

from .splits import TEST as TEST
from .splits import TRAIN as TRAIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crossfold.imaging.preprocessing import Preprocessing

_COLUMNS = (
    ("path", pa.string()),
    ("image", pa.binary()),
    ("label", pa.int32()),
    ("content_hash", pa.string()),
    ("split", pa.string()),
    ("fold", pa.int32()),
    ("group", pa.int32()),
    ("num_bytes", pa.int32()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("camera", pa.string()),
    ("format", pa.string()),
)
# Files are compressed already; level 1 of zstd makes squares 15 % smaller at hardly any cost.
_COMPRESSION = {name: "NONE" if name == "image" else "SNAPPY" for name, _ in _COLUMNS}
NO_FACTS = DataFacts()
_MAX_ROWS = 1024
_MAX_BYTES = 32 * 2**20
# Larger batches are no faster: 32 images' activations of a layer still fit the processor's cache.
BATCH_SIZE = 32

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Square = Pixels  # uint8 [S, S, 3]


class Example(NamedTuple):
    """A row of the table; `squares` are in the order of the table's geometries."""

    path: str
    image: bytes | None
    label: int
    content_hash: str
    split: str
    fold: int
    group: int = -1
    num_bytes: int = 0
    width: int = 0
    height: int = 0
    camera: str = ""
    format: str = ""
    squares: tuple[Square | None, ...] = ()


def write_examples(
    path: Path,
    rows: Iterable[Example],
    *,
    classes: tuple[str, ...],
    data_hash: str,
    geometries: tuple[SquareGeometry, ...] = (),
    skipped: tuple[str, ...] = (),
    facts: DataFacts = NO_FACTS,
) -> None:
    """Write the table as a stream, in the order of `rows`; leave no file on failure.

    Without geometries, every row has its file.
    """
    about = {
        "classes": classes,
        "data_hash": data_hash,
        "geometries": [asdict(one) for one in geometries],
        "skipped": skipped,
        "facts": facts.model_dump(),
    }
    squares = _columns(len(geometries))
    schema = _schema(squares).with_metadata({b"crossfold": json.dumps(about).encode()})
    options = {
        "use_dictionary": ["split", "camera", "format"],
        # Statistics of images would hold whole ones.
        "write_statistics": ["label", "fold", "split"],
        "compression": _COMPRESSION | dict.fromkeys(squares, "ZSTD"),
        "compression_level": dict.fromkeys(squares, 1),
    }
    with replaced_whole(path) as part, pq.ParquetWriter(part, schema, **options) as writer:
        for group in _row_groups(rows):
            writer.write_table(_table(group, schema))


def _schema(squares: Sequence[str]) -> pa.Schema:
    fields = [pa.field(name, kind, nullable=name == "image") for name, kind in _COLUMNS]
    return pa.schema([*fields, *(pa.field(name, pa.binary()) for name in squares)])


def _columns(num_geometries: int) -> list[str]:
    """Name the columns of squares, in the order of the geometries."""
    return [f"square {number}" for number in range(num_geometries)]


def _table(group: Sequence[Example], schema: pa.Schema) -> pa.Table:
    *columns, squares = (list(column) for column in zip(*group, strict=True))
    columns += [
        [None if square is None else square.tobytes() for square in of_geometry]
        for of_geometry in zip(*squares, strict=True)
    ]
    return pa.table(columns, schema=schema)


def _row_groups(rows: Iterable[Example]) -> Iterator[list[Example]]:
    group: list[Example] = []
    num_bytes = 0
    for row in rows:
        group.append(row)
        num_bytes += len(row.image or b"")
        num_bytes += sum(square.nbytes for square in row.squares if square is not None)
        if len(group) == _MAX_ROWS or num_bytes >= _MAX_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


class Examples:
    """The table at `path`, or one shard of its training images, read as a stream.

    A shard is a run of row groups; the shards, in order, have all training images. One may be
    empty.

    Attributes:
        classes: the names of the classes; a label is an index into them.
        data_hash: the MD5 of the data version in data.dvc.
        geometries: the geometries of the squares.
        skipped: a line for each image that was left out.
        facts: the findings about the images.

    Raises:
        UserError: the file is damaged, or another program wrote it.
    """

    def __init__(self, path: Path, shard: int = 0, num_shards: int = 1) -> None:
        self._path = path
        with _refusing_damage(path):
            metadata = pq.read_metadata(path)
            about: dict[str, Any] = json.loads((metadata.metadata or {})[b"crossfold"])
            self._splits = [_splits(metadata, group) for group in range(metadata.num_row_groups)]
            self.classes: tuple[str, ...] = tuple(about["classes"])
            self.data_hash: str = about["data_hash"]
            self.geometries = read_geometries(about["geometries"])
            self.skipped: tuple[str, ...] = tuple(about["skipped"])
            self.facts = DataFacts.model_validate(about["facts"])
        groups = [
            group for group, splits in enumerate(self._splits) if num_shards == 1 or TRAIN in splits
        ]
        start, stop = (len(groups) * n // num_shards for n in (shard, shard + 1))
        self._groups = groups[start:stop]

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

    def images(
        self, split: str | None, indices: Sequence[int], geometry: SquareGeometry | None = None
    ) -> list[bytes | Square]:
        """Read some images, by their positions in `split`, in the given order.

        An image is its square of a geometry, if the table has that, or else its file. Without a
        geometry it is its file, or else its square of the table's first geometry that it has.
        """
        images = dict(self._each_image(split, indices, geometry))
        return [images[index] for index in indices]

    def _each_image(
        self, split: str | None, indices: Iterable[int], geometry: SquareGeometry | None = None
    ) -> Iterator[tuple[int, bytes | Square]]:
        """Yield positions and images, see `images`, in the table's order.

        Reads only row groups with one of these images, and holds one group in memory.
        """
        files_first = ["image", *_columns(len(self.geometries))]
        names = self._columns_of(geometry) if geometry else files_first
        wanted, start = set(indices), 0
        with pq.ParquetFile(self._path) as file:
            for group in self._groups:
                splits = file.read_row_group(group, columns=["split"])
                inside = range(start, start + len(_only(splits, split)))
                start = inside.stop
                if here := sorted(wanted.intersection(inside)):
                    table = _only(file.read_row_group(group, columns=[*names, "split"]), split)
                    rows = table.take([index - inside.start for index in here])
                    yield from zip(here, _images(rows, names), strict=True)

    def test_files(self, indices: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """Yield positions and files of some test images, in the table's order.

        Holds one row group in memory.
        """
        for index, image in self._each_image(TEST, indices):
            assert isinstance(image, bytes)
            yield index, image

    def batches(
        self, split: str | None, batch_size: int, geometry: SquareGeometry | None = None
    ) -> Iterator[tuple[list[str], list[bytes | Square], NDArray[np.int64]]]:
        """Yield paths, images and labels (int64 [n]) of at most `batch_size` images at a time.

        An image is its square of a geometry, if the table has that, or else its file.

        A batch never reaches into the next row group. A shard therefore has the same batches as
        the whole table, and results the same last digits, which depend on the size of a batch.
        Holds one row group in memory.
        """
        columns = self._columns_of(geometry)
        names = ["path", *columns, "label"]
        with pq.ParquetFile(self._path) as file:
            for group in self._groups:
                if split not in (None, *self._splits[group]):
                    continue
                table = _only(file.read_row_group(group, columns=[*names, "split"]), split)
                for start in range(0, len(table), batch_size):
                    rows = table.slice(start, batch_size)
                    paths, labels = (rows.column(name).to_pylist() for name in ("path", "label"))
                    yield paths, _images(rows, columns), np.asarray(labels, np.int64)

    def decoded_batches(
        self, split: str | None, preprocessing: Preprocessing, num_threads: int
    ) -> Iterator[tuple[list[str], Pixels, NDArray[np.int64]]]:
        """Yield paths, pixels (uint8 [B, S, S, 3]) and labels (int64 [B]).

        Files are decoded in threads; squares need no decoding.
        """
        geometry = preprocessing.geometry
        for paths, images, labels in self.batches(split, BATCH_SIZE, geometry):
            yield paths, _decoded(images, geometry, num_threads), labels

    def sample(self, split: str, most: int) -> Sequence[int]:
        """List the positions of at most `most` images, spread evenly over a split."""
        count = self.count(split)
        return [count * n // most for n in range(most)] if count > most else range(count)

    def sampled_batches(
        self, split: str, most: int, preprocessing: Preprocessing, num_threads: int
    ) -> Iterator[Pixels]:
        """Yield pixels (uint8 [B, S, S, 3]) of the images that `sample` lists."""
        geometry = preprocessing.geometry
        indices = self.sample(split, most)
        for start in range(0, len(indices), BATCH_SIZE):
            images = self.images(split, indices[start : start + BATCH_SIZE], geometry)
            yield _decoded(images, geometry, num_threads)

    def _columns_of(self, geometry: SquareGeometry | None) -> list[str]:
        """List the columns that may have an image of a geometry, the best first."""
        columns = zip(self.geometries, _columns(len(self.geometries)), strict=True)
        return [*(name for one, name in columns if one == geometry), "image"]


@contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (
        OSError,
        pa.ArrowException,
        LookupError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        raise UserError(
            f"{path} is damaged, or Crossfold did not write it ({error}). Delete it, and run again"
        ) from None


def _splits(metadata: pq.FileMetaData, group: int) -> set[str]:
    """List the splits of a row group; there are two at most."""
    row_group = metadata.row_group(group)
    (statistics,) = (
        column.statistics
        for column in map(row_group.column, range(row_group.num_columns))
        if column.path_in_schema == "split"
    )
    if statistics is None:
        raise ValueError("it has no statistics of the splits")
    return {statistics.min, statistics.max}


def _decoded(
    images: Sequence[bytes | Square], geometry: SquareGeometry, num_threads: int
) -> Pixels:
    def decode(image: bytes | Square) -> Square:
        return decoding.square(image, geometry) if isinstance(image, bytes) else image

    return np.stack(list(in_order(decode, images, num_threads)))


def _only(table: pa.Table, split: str | None) -> pa.Table:
    return table if split is None else table.filter(pc.equal(table.column("split"), split))


def _images(rows: pa.Table, names: Sequence[str]) -> list[bytes | Square]:
    """Take each row's image from the first of the columns that has one."""
    columns = [rows.column(name) for name in names]
    return [
        next(
            _image(name, value) for name, value in zip(names, values, strict=True) if value.is_valid
        )
        for values in zip(*columns, strict=True)
    ]


def _image(name: str, value: pa.Scalar) -> bytes | Square:
    """Give a file's bytes, or a square's pixels without a copy."""
    if name == "image":
        return bytes(value.as_py())
    pixels = np.frombuffer(value.as_buffer(), np.uint8)
    side = math.isqrt(len(pixels) // 3)
    return pixels.reshape(side, side, 3)
