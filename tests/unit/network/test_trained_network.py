import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from crossfold.network import normalization, trained_network
from tests.unit.networks import IMAGENET, SMALL, build, pixels, save


@pytest.mark.parametrize("architecture", [SMALL, "shufflenet_v2_x0_5"])
def test_a_saved_network_predicts_as_before(tmp_path: Path, architecture: str) -> None:
    network = build(architecture)
    loaded = trained_network.Network(save(tmp_path / "model", network, architecture))
    images = pixels(4, 33)
    with torch.inference_mode():
        logits = network(normalization.normalize(torch.from_numpy(images), IMAGENET))
        wanted = logits.softmax(dim=1).numpy()
    found = loaded.predict(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert loaded.classes == ("a", "b", "ü")
    assert (loaded.architecture, loaded.preprocessing.image_size) == (architecture, 33)


def test_a_network_is_saved_in_eval_mode_whatever_it_was_in(tmp_path: Path) -> None:
    network = build("shufflenet_v2_x0_5")
    loaded = trained_network.Network(
        save(tmp_path / "model", network.train(), "shufflenet_v2_x0_5")
    )
    images = pixels(4, 33)
    together, alone = loaded.predict(images), loaded.predict(images[:1])
    np.testing.assert_allclose(together[:1], alone, atol=1e-6)


def test_the_network_file_is_safetensors_with_json(tmp_path: Path) -> None:
    path = save(tmp_path / "model", build(SMALL))
    with safetensors.safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["crossfold"])
        assert set(file.keys()) == set(build(SMALL).state_dict())
    assert about == {
        "architecture": SMALL,
        "classes": ["a", "b", "ü"],
        "precision": "float32",
        "preprocessing": {
            "image_size": 33,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "interpolation": "bilinear",
            "crop": 1.0,
            "reducing_gap": None,
        },
        "temperature": 1.0,
        "views": [],
    }


def test_probabilities_have_the_files_temperature_and_old_files_have_none(tmp_path: Path) -> None:
    network = build(SMALL)
    about = {"architecture": SMALL, "classes": ["a", "b", "ü"], "image_size": 33}
    images = pixels(4, 33)
    with torch.inference_mode():
        logits = network(normalization.normalize(torch.from_numpy(images), IMAGENET))
    for temperature, known in ((1.0, about), (2.5, {**about, "temperature": 2.5})):
        path = tmp_path / "model"
        metadata = {"crossfold": json.dumps(known)}
        safetensors.torch.save_file(network.state_dict(), path, metadata=metadata)
        wanted = (logits / temperature).softmax(dim=1).numpy()
        np.testing.assert_allclose(trained_network.Network(path).predict(images), wanted, atol=1e-6)
