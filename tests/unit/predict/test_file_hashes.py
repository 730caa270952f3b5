from pathlib import Path

import pytest

from crossfold.errors import UserError
from crossfold.predict.file_hashes import hash_folder, verify_file, verify_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "code/crossfold").mkdir(parents=True)
    (tmp_path / "code/crossfold/errors.py").write_text("1")
    return tmp_path


@pytest.mark.parametrize("damaged", ["code/crossfold/errors.py", "code/numpy.py"])
def test_a_modified_and_a_new_file_are_refused_by_name(folder: Path, damaged: str) -> None:
    registered = hash_folder(folder)
    (folder / "registered_model_meta").write_text("MLflow's")
    verify_folder(folder, registered, "crossfold version 1")
    (folder / damaged).write_text("2")
    with pytest.raises(UserError, match=f"crossfold version 1: {damaged} "):
        verify_folder(folder, registered, "crossfold version 1")


def test_a_missing_file_is_refused_by_name(folder: Path) -> None:
    registered = hash_folder(folder)
    (folder / "code/crossfold/errors.py").unlink()
    with pytest.raises(UserError, match=r"crossfold version 1: code/crossfold/errors\.py "):
        verify_folder(folder, registered, "crossfold version 1")


def test_a_modified_file_is_refused_by_name(folder: Path) -> None:
    path = folder / "code/crossfold/errors.py"
    registered = hash_folder(folder)["code/crossfold/errors.py"]
    verify_file(path, registered, "crossfold version 1")
    path.write_text("2")
    with pytest.raises(UserError, match=r"crossfold version 1: errors\.py "):
        verify_file(path, registered, "crossfold version 1")
