from pathlib import Path

import pytest

from crossfold.step.files import replaced_whole


def test_a_file_is_replaced_when_all_of_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("before")
    with replaced_whole(path) as part:
        part.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_not_completed_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("before")
    with pytest.raises(RuntimeError), replaced_whole(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_is_the_error_that_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "file" / "run.json"
    path.parent.touch()
    with pytest.raises(NotADirectoryError), replaced_whole(path) as part:
        part.write_text("text")
