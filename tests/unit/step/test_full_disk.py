import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import SafetensorError

from crossfold.step.full_disk import explain_full_disk

FULL = Path("/dev/full")  # the kernel's own full disk


def write_text() -> None:
    with FULL.open("w") as file:
        file.write("one character")


def write_table() -> None:
    with FULL.open("wb") as file:  # given the path, it would delete the device
        pq.write_table(pa.table({"label": [0, 1]}), file)


def write_tensors() -> None:
    """As safetensors says it: without the system's number."""
    raise SafetensorError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error {errno.ENOSPC})")


def write_to_store() -> None:
    with sqlite3.connect(":memory:") as store:
        store.execute("PRAGMA max_page_count = 1")
        store.execute("CREATE TABLE runs (name TEXT)")


@pytest.mark.parametrize("write", [write_text, write_table, write_tensors, write_to_store])
def test_a_full_disk_is_recognised_in_the_errors_of_each_library(
    tmp_path: Path, write: Callable[[], None]
) -> None:
    with pytest.raises(
        (OSError, RuntimeError, SafetensorError, sqlite3.OperationalError)
    ) as caught:
        write()
    explained = explain_full_disk(caught.value, tmp_path)
    assert explained.startswith(f"{tmp_path}: ") and "MB" in explained


def test_the_errors_own_path_is_named_and_a_quota_counts(tmp_path: Path) -> None:
    error = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/mnt/features")
    assert explain_full_disk(error, tmp_path).startswith("/mnt/features: ")


def test_a_copys_target_is_named_and_not_its_source(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "remote/file", None, "runs/file")
    assert explain_full_disk(error, tmp_path).startswith("runs/file: ")


def test_an_error_of_a_stream_counts_only_if_the_disk_is_nearly_full(tmp_path: Path) -> None:
    """OpenVINO's, which names neither file nor reason."""
    error = RuntimeError("basic_ios::clear: iostream error")
    assert explain_full_disk(error, Path("/proc")).startswith("/proc: ")  # has no free space
    assert explain_full_disk(error, tmp_path) == ""


def test_another_error_is_not_explained(tmp_path: Path) -> None:
    assert explain_full_disk(PermissionError(errno.EACCES, "Permission denied"), tmp_path) == ""
