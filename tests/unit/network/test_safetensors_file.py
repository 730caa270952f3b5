import json
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from crossfold.network import safetensors_file

# Sizes that no alignment comes from by chance.
ARRAYS: dict[str, safetensors_file.Array] = {
    "bytes": np.arange(7, dtype=np.uint8),
    "floats": np.linspace(-1, 1, 15, dtype=np.float32).reshape(3, 5),
    "more bytes": np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5),
    "numbers": np.array([-(2**62), 0, 2**62]),
    "none": np.zeros((0, 4), np.float32),
}
ABOUT = {"classes": ["a", "ü"], "nested": {"rate": 0.1}, "nothing": None}


def same(
    found: dict[str, safetensors_file.Array], wanted: dict[str, safetensors_file.Array]
) -> bool:
    return found.keys() == wanted.keys() and all(
        found[name].dtype == array.dtype
        and found[name].shape == array.shape
        and np.array_equal(found[name], array)
        for name, array in wanted.items()
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    safetensors_file.write(tmp_path / "file", ARRAYS, ABOUT)
    arrays, about = safetensors_file.read(tmp_path / "file")
    assert same(arrays, ARRAYS)
    assert about == ABOUT == safetensors_file.read_metadata(tmp_path / "file")


def test_the_safetensors_library_reads_it(tmp_path: Path) -> None:
    safetensors_file.write(tmp_path / "file", ARRAYS, ABOUT)
    assert same(load_file(tmp_path / "file"), ARRAYS)
    with safe_open(tmp_path / "file", "numpy") as file:
        assert json.loads(file.metadata()["crossfold"]) == ABOUT


def test_a_file_of_the_safetensors_library_is_read(tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "file", {"crossfold": json.dumps(ABOUT)})
    arrays, about = safetensors_file.read(tmp_path / "file")
    assert same(arrays, ARRAYS)
    assert about == ABOUT


def test_every_array_is_aligned_to_its_type(tmp_path: Path) -> None:
    safetensors_file.write(tmp_path / "file", ARRAYS, ABOUT)
    content = (tmp_path / "file").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    for name, array in ARRAYS.items():
        assert (8 + length + header[name]["data_offsets"][0]) % array.itemsize == 0, name
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    assert max(ends) == len(content) - 8 - length == sum(a.nbytes for a in ARRAYS.values())


def test_arrays_are_filled_piece_by_piece_through_the_map(tmp_path: Path) -> None:
    path = tmp_path / "file"
    arrays = safetensors_file.create(path, {"x": (np.float32, (4, 2)), "y": (np.int64, (4,))}, {})
    assert not arrays["x"].any() and not arrays["y"].any()
    arrays["x"][1:3] = [[1, 2], [3, 4]]
    arrays["y"][3] = 7
    del arrays
    assert same(
        load_file(path),
        {
            "x": np.array([[0, 0], [1, 2], [3, 4], [0, 0]], np.float32),
            "y": np.array([0, 0, 0, 7]),
        },
    )


def test_what_is_read_is_mapped_and_cannot_be_changed(tmp_path: Path) -> None:
    safetensors_file.write(tmp_path / "file", ARRAYS, ABOUT)
    arrays, _ = safetensors_file.read(tmp_path / "file")
    assert isinstance(arrays["floats"], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        arrays["floats"][0] = 0


def test_the_disk_space_is_taken_before_the_arrays_are_filled(tmp_path: Path) -> None:
    """Or a full disk would end the process with SIGBUS in the middle, not with an error."""
    safetensors_file.create(tmp_path / "file", {"x": (np.uint8, (2**20,))}, {})
    assert (tmp_path / "file").stat().st_blocks * 512 >= 2**20


@pytest.mark.parametrize("kind", [np.float64, np.int32])
def test_other_types_are_not_written(tmp_path: Path, kind: type) -> None:
    with pytest.raises(KeyError):
        safetensors_file.create(tmp_path / "file", {"x": (kind, (2,))}, {})
    assert not (tmp_path / "file").exists()


@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda name: name != "__metadata__"),
        arrays(
            st.sampled_from([np.uint8, np.float32, np.int64]),
            array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        ),
        max_size=4,
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda values: st.lists(values) | st.dictionaries(st.text(), values),
        max_leaves=5,
    ),
)
def test_any_arrays_and_metadata_come_back_as_they_were(
    written: dict[str, safetensors_file.Array], about: object
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        safetensors_file.write(Path(folder) / "file", written, {"about": about})
        read, metadata = safetensors_file.read(Path(folder) / "file")
        assert read.keys() == written.keys()
        for name, array in written.items():
            assert read[name].dtype == array.dtype
            assert read[name].shape == array.shape
            assert read[name].tobytes() == array.tobytes()
        assert metadata == {"about": about}
