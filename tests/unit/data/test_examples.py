import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossfold.data.examples import TEST, TRAIN, Example, Examples, write_examples
from crossfold.imaging.preprocessing import Preprocessing, read_geometries


def rows(count: int, num_bytes: int = 10) -> list[Example]:
    """Examples with a different image each; every fifth is in the test split."""
    return [
        Example(
            path=f"{index % 3}/{index:04d}.png",
            image=index.to_bytes(4, "big") + bytes(num_bytes - 4),
            label=index % 3,
            content_hash=f"hash {index}",
            split=TEST if index % 5 == 0 else TRAIN,
            fold=-1 if index % 5 == 0 else index % 2,
        )
        for index in range(count)
    ]


def written(tmp_path: Path, table: list[Example]) -> Examples:
    path = tmp_path / "examples"
    write_examples(path, iter(table), classes=("a", "b", "ü"), data_hash="0f.dir")
    return Examples(path)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    table = rows(50)
    read = written(tmp_path, table)
    assert (read.classes, read.data_hash) == (("a", "b", "ü"), "0f.dir")
    for name in set(Example._fields) - {"squares"}:
        assert read.column(name, None).tolist() == [getattr(row, name) for row in table]
    assert [read.count(split) for split in (None, TEST, TRAIN)] == [50, 10, 40]
    test_paths = [row.path for row in table if row.split == TEST]
    assert read.column("path", TEST).tolist() == test_paths
    assert read.column("split", TEST).tolist() == [TEST] * 10


def test_squares_are_found_by_a_geometry_that_kubeflow_has_handed_on(tmp_path: Path) -> None:
    """It writes 2.0 as 2, and 1.0 as 1, on a cluster."""
    handed_on = '{"image_size": 2, "interpolation": "bilinear", "crop": 1, "reducing_gap": 2}'
    (geometry,) = read_geometries([json.loads(handed_on)])
    square = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    row = Example("a/0.jpg", None, 0, "hash", TRAIN, 0, squares=(square,))
    path = tmp_path / "examples"
    write_examples(path, [row], classes=("a",), data_hash="0f.dir", geometries=(geometry,))
    preprocessing = Preprocessing(2, reducing_gap=2.0)
    table = Examples(path)
    (batch,) = table.decoded_batches(TRAIN, preprocessing, num_threads=1)
    np.testing.assert_array_equal(batch[1], [square])
    (sample,) = table.sampled_batches(TRAIN, 1, preprocessing, num_threads=1)
    np.testing.assert_array_equal(sample, [square])


def test_the_schema_is_as_documented(tmp_path: Path) -> None:
    written(tmp_path, rows(3))
    schema = pq.read_schema(tmp_path / "examples")
    assert dict(zip(schema.names, schema.types, strict=True)) == {
        "path": pa.string(),
        "image": pa.binary(),
        "label": pa.int32(),
        "content_hash": pa.string(),
        "split": pa.string(),
        "fold": pa.int32(),
        "group": pa.int32(),
        "num_bytes": pa.int32(),
        "width": pa.int32(),
        "height": pa.int32(),
        "camera": pa.string(),
        "format": pa.string(),
    }


@pytest.mark.parametrize("split", [None, TRAIN, TEST])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batches_are_the_table_in_order_across_row_groups(
    tmp_path: Path, split: str | None, batch_size: int
) -> None:
    table = rows(1500)
    read = written(tmp_path, table)
    assert pq.ParquetFile(tmp_path / "examples").num_row_groups > 1
    wanted = [row for row in table if split in (None, row.split)]
    batches = list(read.batches(split, batch_size))
    assert all(0 < len(paths) <= batch_size for paths, _, _ in batches)
    assert all(labels.dtype == np.int64 for _, _, labels in batches)
    found = [row for batch in batches for row in zip(*batch, strict=True)]
    assert found == [(row.path, row.image, row.label) for row in wanted]


@pytest.mark.parametrize("split", [None, TRAIN, TEST])
def test_some_images_are_read_in_the_order_asked_for(tmp_path: Path, split: str | None) -> None:
    table = rows(2500)  # three row groups
    read = written(tmp_path, table)
    wanted = [row.image for row in table if split in (None, row.split)]
    last = len(wanted) - 1
    for indices in ([], [0], [last, 3, 0, last // 2], range(0, last, 97)):
        assert read.images(split, indices) == [wanted[index] for index in indices]


def test_row_groups_are_bounded_in_bytes(tmp_path: Path) -> None:
    written(tmp_path, rows(20, num_bytes=5 * 2**20))
    metadata = pq.ParquetFile(tmp_path / "examples").metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [
        7,
        7,
        6,
    ]


def test_statistics_hold_no_image(tmp_path: Path) -> None:
    written(tmp_path, rows(20, num_bytes=2**20))
    assert pq.ParquetFile(tmp_path / "examples").metadata.serialized_size < 10_000


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    written(tmp_path, rows(3))
    before = (tmp_path / "examples").read_bytes()

    def breaking() -> Iterator[Example]:
        yield from rows(2000)
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        write_examples(tmp_path / "examples", breaking(), classes=("a",), data_hash="")
    assert (tmp_path / "examples").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["examples"]


@pytest.mark.parametrize("num_shards", [1, 2, 3, 5])
def test_shards_in_order_are_the_table_with_the_same_batches(
    tmp_path: Path, num_shards: int
) -> None:
    table = written(tmp_path, rows(2500))  # three row groups
    shards = [Examples(tmp_path / "examples", n, num_shards) for n in range(num_shards)]
    found = [paths for shard in shards for paths, _, _ in shard.batches("train", 100)]
    assert found == [paths for paths, _, _ in table.batches("train", 100)]
    folds = np.concatenate([shard.column("fold", "train") for shard in shards])
    np.testing.assert_array_equal(folds, table.column("fold", "train"))
    assert sum(shard.count("train") for shard in shards) == table.count("train")
