"""The sample of photographs, with the weights that the package index has."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from crossfold.cli.data import fetch_sample_weights
from crossfold.data.samples.digits import RANDOM_WEIGHTS, write_random_weights
from crossfold.data.samples.sample import (
    DIGITS_HASHES,
    PHOTOGRAPHS_HASHES,
    write_digits_sample,
    write_photographs_sample,
)
from crossfold.imaging.decoding import read_image, square
from crossfold.network import normalization
from crossfold.network.cutting import head_name
from crossfold.settings import PreprocessingSettings
from crossfold.versioning.dvc import changed_since_add, pointer_hash
from crossfold.weights.preprocessing import find_preprocessing
from crossfold.weights.pretrained_network import pretrained_network

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[3]
CLASSES = [
    "astronaut",
    "cat",
    "coffee",
    "flower",
    "galaxies",
    "retina",
    "rocket",
    "temple",
    "tissue",
]


def clone(root: Path) -> Path:
    """A fresh clone, as far as DVC is concerned."""
    for name in ("data.dvc", "models.dvc", ".dvc/config", ".dvcignore"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, root / name)
    return root


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = clone(tmp_path_factory.mktemp("photographs") / "clone")
    write_photographs_sample(root, fetch_sample_weights)
    return root


def hashes(root: Path) -> dict[str, str]:
    return {name: pointer_hash((root / f"{name}.dvc").read_text()) for name in ("data", "models")}


def test_the_sample_is_the_same_on_every_machine(sample: Path) -> None:
    assert hashes(sample) == PHOTOGRAPHS_HASHES
    assert changed_since_add(sample) == []
    for name in ("data.dvc", "models.dvc"):
        assert (sample / name).read_bytes() == (PROJECT / name).read_bytes()


def test_every_class_has_35_squares_of_one_picture(sample: Path) -> None:
    assert sorted(path.name for path in (sample / "data").iterdir()) == CLASSES
    for name in CLASSES:
        images = [Image.open(path) for path in (sample / "data" / name).iterdir()]
        assert len(images) == 35
        assert {(image.size, image.mode) for image in images} == {((60, 60), "RGB")}


def test_a_sample_replaces_the_other_and_may_be_written_again(sample: Path) -> None:
    assert all("written" in line for line in write_digits_sample(sample))
    assert hashes(sample) == DIGITS_HASHES
    lines = write_photographs_sample(sample, fetch_sample_weights)
    assert all("written" in line for line in lines)
    assert hashes(sample) == PHOTOGRAPHS_HASHES
    lines = write_photographs_sample(sample, fetch_sample_weights)
    assert all("exists already" in line for line in lines)
    assert hashes(sample) == PHOTOGRAPHS_HASHES


@pytest.fixture(scope="module")
def weights(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's weights with the random ones beside them."""
    folder = tmp_path_factory.mktemp("weights") / "models"
    shutil.copytree(sample / "models", folder)
    write_random_weights(folder)
    return folder


@pytest.mark.parametrize(
    ("architecture", "file", "bounds"),
    [
        ("timm/tf_efficientnet_lite0", "efficientnet_lite0.safetensors", (0.9, 1.0)),
        ("resnet18", RANDOM_WEIGHTS, (0.3, 0.85)),
    ],
)
def test_a_classifier_on_trained_features_does_what_random_ones_cannot(
    sample: Path, weights: Path, architecture: str, file: str, bounds: tuple[float, float]
) -> None:
    network = pretrained_network(architecture, weights / file, num_classes=len(CLASSES), seed=0)
    features: list[torch.Tensor] = []
    head = network.get_submodule(head_name(network))
    head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    labels = []
    how = find_preprocessing(architecture, weights / file, PreprocessingSettings(image_size=224))
    for label in CLASSES:
        paths = sorted((sample / "data" / label).iterdir())[::2]
        pixels = np.stack([square(read_image(path), how.geometry) for path in paths])
        with torch.inference_mode():
            network(normalization.normalize(torch.from_numpy(pixels), how))
        labels += [label] * len(paths)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    accuracy = cross_val_score(classifier, torch.cat(features).numpy(), labels, cv=3).mean()
    low, high = bounds
    assert low <= accuracy <= high
