import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torchvision
from dvc.repo import Repo
from PIL import Image
from sklearn.datasets import load_digits

from crossfold.data.samples.digits import RANDOM_WEIGHTS
from crossfold.data.samples.sample import (
    DIGITS_HASHES,
    weights_warning,
    write_digits_sample,
    write_photographs_sample,
)
from crossfold.errors import UserError
from crossfold.versioning.dvc import changed_since_add, pointer_hash

PROJECT = Path(__file__).parents[4]
POINTERS = ("data.dvc", "models.dvc")
COMMITTED = (*POINTERS, ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore")


def clone(root: Path) -> Path:
    """A fresh clone, as far as DVC is concerned; its pointers describe the photographs."""
    (root / ".dvc").mkdir(parents=True)
    for name in COMMITTED:
        shutil.copy(PROJECT / name, root / name)
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "-m", "clone")
    return root


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = clone(tmp_path_factory.mktemp("sample") / "clone")
    assert write_digits_sample(root) == [
        "data/: 1797 images of 10 classes written",
        "models/: resnet18-random.safetensors written, a ResNet18 of random convolutions",
    ]
    return root


def test_the_pointers_describe_the_sample(sample: Path) -> None:
    with Repo(str(sample)) as repo:
        assert repo.status() == {}
    assert changed_since_add(sample) == []
    assert git(sample, "status", "--short").split() == ["M", "data.dvc", "M", "models.dvc"]
    for name in POINTERS:
        assert pointer_hash((sample / name).read_text()) == DIGITS_HASHES[Path(name).stem]


def test_every_digit_decodes_to_its_pixels(sample: Path) -> None:
    digits = load_digits()
    for index in (0, 1, 900, 1796):
        path = sample / "data" / str(digits.target[index]) / f"{index:04d}.bmp"
        pixels = np.asarray(Image.open(path)).astype(int)
        assert pixels.shape == (8, 8, 3)
        expected = np.rint(digits.images[index] * 255 / 16)
        assert np.abs(pixels - expected[:, :, None]).max() <= 1
        assert (pixels == pixels[:, :, :1]).all()


def test_the_weights_are_a_resnet18_without_classifier(sample: Path) -> None:
    weights = safetensors.numpy.load_file(sample / "models" / "resnet18-random.safetensors")
    network = torchvision.models.resnet18().state_dict()
    expected = {
        name: tensor.numpy() for name, tensor in network.items() if not name.startswith("fc.")
    }
    assert {name: (value.shape, value.dtype) for name, value in weights.items()} == {
        name: (value.shape, value.dtype) for name, value in expected.items()
    }
    for name, value in weights.items():
        if value.ndim == 4:
            fan_out = value.shape[0] * value.shape[2] * value.shape[3]
            assert value.var() * fan_out / 2 == pytest.approx(1, abs=0.05)
            assert abs(value.mean()) < 5 * value.std() / value.size**0.5
            assert abs(value).max() <= (6 / fan_out) ** 0.5
        else:  # batch normalisation that changes nothing, as torchvision's begins
            assert np.array_equal(value, expected[name])


def test_the_first_weight_follows_from_the_documented_stream(sample: Path) -> None:
    weights = safetensors.numpy.load_file(sample / "models" / "resnet18-random.safetensors")
    draw = int(np.random.PCG64(2).random_raw()) >> 40
    unit = (2 * draw + 1 - 2**24) / 2**24
    assert weights["conv1.weight"][0, 0, 0, 0] == np.float32(unit * (6 / (64 * 49)) ** 0.5)


def test_a_sample_that_was_not_added_is_added_by_the_next_call(tmp_path: Path) -> None:
    root = clone(tmp_path / "clone")
    (root / ".dvc/cache").touch()  # DVC cannot write there
    with pytest.raises(OSError):
        write_digits_sample(root)
    assert not (root / "data").exists()
    (root / ".dvc/cache").unlink()
    assert "written" in " ".join(write_digits_sample(root))
    shutil.rmtree(root / ".dvc/cache")  # as if the call had been killed before it added them
    assert write_digits_sample(root) == [
        "data/: the sample exists already",
        "models/: the sample exists already",
    ]
    with Repo(str(root)) as repo:
        assert repo.push(remote="sample") == 1797 + 1 + 2


def test_folders_that_are_there_are_left_alone(tmp_path: Path) -> None:
    root = clone(tmp_path / "clone")
    for name in ("data", "models"):
        (root / name).mkdir()
        (root / name / "mine").write_text("mine")
    assert write_digits_sample(root) == [
        "data/: kept, it exists already",
        "models/: kept, it exists already",
    ]
    assert [path.name for path in (root / "data").iterdir()] == ["mine"]
    assert git(root, "status", "--short") == ""


def test_pointers_to_other_data_are_left_alone(tmp_path: Path) -> None:
    root = clone(tmp_path / "clone")
    for name in POINTERS:
        text = (root / name).read_text()
        own = text.replace(pointer_hash(text), f"{0:032x}.dir")
        (root / name).write_text(own)
    assert write_digits_sample(root) == [
        "data/: kept, data.dvc describes your own files",
        "models/: kept, models.dvc describes your own files",
    ]
    assert not (root / "data").exists()
    assert not (root / "models").exists()


def write_no_weights(folder: Path) -> str:
    return "nothing"


def fetch_in_vain(folder: Path) -> str:
    raise UserError("no network")


def test_another_sample_is_replaced_and_changed_files_of_it_are_kept(sample: Path) -> None:
    (sample / "data/0/mine.bmp").write_text("mine")
    assert write_photographs_sample(sample, write_no_weights) == [
        "data/: kept, it exists already",
        "models/: nothing",
    ]
    assert (sample / "data/0/mine.bmp").read_text() == "mine"
    assert list((sample / "models").iterdir()) == []


def test_a_sample_that_cannot_be_fetched_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossfold.data.samples.sample.write_photographs", write_no_weights)
    root = clone(tmp_path / "clone")
    before = sorted(root.iterdir())
    with pytest.raises(UserError, match=r"no network\..*`crossfold sample --digits`"):
        write_photographs_sample(root, fetch_in_vain)
    assert sorted(root.iterdir()) == before
    assert git(root, "status", "--short") == ""


def test_other_images_with_the_digits_weights_are_warned_of() -> None:
    own, of_sample = "0" * 32 + ".dir", DIGITS_HASHES["data"]
    said = weights_warning(own, RANDOM_WEIGHTS)
    assert "`crossfold weights fetch efficientnet_lite0`" in said and "`dvc add models`" in said
    assert not weights_warning(of_sample, RANDOM_WEIGHTS)
    assert not weights_warning(own, "resnet18-imagenet.safetensors")
