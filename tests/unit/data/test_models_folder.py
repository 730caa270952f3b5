from pathlib import Path

import pytest
import safetensors
import safetensors.numpy
from numpy import arange, array_equal, float32

from crossfold.data.models_folder import WeightsFiles, copy_weights, find_weights
from crossfold.errors import UserError

FILES = ("a.pth", "vit/config.json", "vit/model.safetensors", "bin/config.json", "bin/model.bin")
TENSORS = {"weight": arange(6, dtype=float32).reshape(2, 3)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    safetensors.numpy.save_file(TENSORS, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text('{"ü": 1}', encoding="utf-8")
    return tmp_path


def test_weights_are_a_file_or_a_folder_of_timm() -> None:
    assert find_weights("a.pth", FILES) == WeightsFiles("a.pth")
    assert find_weights("vit/model.safetensors", FILES) == WeightsFiles("vit/model.safetensors")
    found = find_weights("vit", FILES)
    assert found == WeightsFiles("vit/model.safetensors", "vit/config.json")


@pytest.mark.parametrize(
    ("name", "message"),
    [("bin", r"'bin'.*model\.safetensors"), ("b.pth", r"'b\.pth'.*\ba\.pth"), ("vitt", r"\bvit\?")],
)
def test_other_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"model\.weights: .*{message}"):
        find_weights(name, FILES)


def test_a_folder_becomes_one_file_with_the_config_beside_its_metadata(folder: Path) -> None:
    copy_weights(folder / "model.safetensors", folder / "config.json", folder / "copy")
    with safetensors.safe_open(folder / "copy", "numpy") as file:
        assert file.metadata() == {"format": "pt", "config.json": '{"ü": 1}'}
        assert array_equal(file.get_tensor("weight"), TENSORS["weight"])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip file", b"\xff" * 16])
def test_a_folder_whose_tensors_cannot_be_read_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.weights: model\.safetensors"):
        copy_weights(folder / "model.safetensors", folder / "config.json", folder / "copy")
