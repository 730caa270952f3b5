import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from timm.models._hub import save_config_for_hf

from crossfold.data.models_folder import copy_weights
from crossfold.errors import UserError
from crossfold.imaging.preprocessing import REDUCING_GAP, Preprocessing
from crossfold.settings import PreprocessingSettings
from crossfold.weights.preprocessing import find_preprocessing
from crossfold.weights.pretrained_network import pretrained_network

NAME = "test_vit"
HALF = (0.5, 0.5, 0.5)
NO_CHANGES = PreprocessingSettings()
STATED = Preprocessing(160, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", 0.9, REDUCING_GAP)


def write_folder(folder: Path, num_classes: int) -> dict[str, torch.Tensor]:
    """A folder as timm writes it for the Hugging Face Hub; its tensors are returned."""
    network = timm.create_model(NAME, num_classes=num_classes)
    folder.mkdir(exist_ok=True)
    data = {"mean": STATED.mean, "std": STATED.std, "crop_pct": STATED.crop}
    save_config_for_hf(network, str(folder / "config.json"), data_config=data)
    tensors: dict[str, torch.Tensor] = network.state_dict()
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return tensors


def joined(folder: Path) -> Path:
    path = folder.parent / "backbone"
    copy_weights(folder / "model.safetensors", folder / "config.json", path)
    return path


def altered(folder: Path, **changes: object) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= changes.pop("pretrained_cfg", {})
    (folder / "config.json").write_text(json.dumps(config | changes))
    return joined(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "folder", num_classes=7)
    return tmp_path / "folder"


@pytest.mark.parametrize("num_classes", [0, 7])
def test_a_folder_of_timm_gives_its_weights_whatever_its_head(
    tmp_path: Path, num_classes: int
) -> None:
    tensors = write_folder(tmp_path / "folder", num_classes)
    path = joined(tmp_path / "folder")
    network = pretrained_network(f"timm/{NAME}", path, 3, seed=0)
    for name, tensor in network.state_dict().items():
        assert name.startswith("head.") or torch.equal(tensor, tensors[name]), name


def test_a_folder_of_timm_states_its_preprocessing_and_params_yaml_wins(folder: Path) -> None:
    path = joined(folder)
    assert find_preprocessing(f"timm/{NAME}", path, NO_CHANGES) == STATED
    changes = PreprocessingSettings(image_size=96, std=(1, 1, 1), crop=1)
    found = find_preprocessing(f"timm/{NAME}", path, changes)
    assert found == Preprocessing(96, STATED.mean, (1, 1, 1), "bicubic", 1, REDUCING_GAP)


@pytest.mark.parametrize("architecture", ["timm/test_convnext", "resnet18"])
def test_a_folder_of_another_architecture_is_refused(folder: Path, architecture: str) -> None:
    with pytest.raises(UserError, match=rf"\btimm/{NAME}\b.*\b{architecture}\b"):
        find_preprocessing(architecture, joined(folder), NO_CHANGES)


def test_an_interpolation_that_crossfold_lacks_must_be_replaced(folder: Path) -> None:
    path = altered(folder, pretrained_cfg={"interpolation": "lanczos"})
    with pytest.raises(UserError, match=r"'lanczos'.*model\.interpolation.*bicubic"):
        find_preprocessing(f"timm/{NAME}", path, NO_CHANGES)
    changes = PreprocessingSettings(interpolation="bilinear")
    assert find_preprocessing(f"timm/{NAME}", path, changes).interpolation == "bilinear"


def test_a_config_that_is_not_timms_is_refused(folder: Path) -> None:
    path = altered(folder, architecture=7, pretrained_cfg={"input_size": [1, 28, 28]})
    with pytest.raises(UserError, match=r"architecture, pretrained_cfg\.input_size\.0"):
        find_preprocessing(f"timm/{NAME}", path, NO_CHANGES)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        find_preprocessing(f"timm/{NAME}", joined(folder), NO_CHANGES)


@pytest.mark.parametrize(
    ("architecture", "published"),
    [
        ("resnet18", Preprocessing(224)),
        ("inception_v3", Preprocessing(299)),
        ("efficientnet_v2_l", Preprocessing(480, HALF, HALF, "bicubic")),
        ("timm/tf_efficientnet_lite0", Preprocessing(224, HALF, HALF, "bicubic")),
    ],
)
def test_an_architecture_has_the_preprocessing_of_its_published_weights_without_their_crop(
    architecture: str, published: Preprocessing
) -> None:
    found = find_preprocessing(architecture, None, NO_CHANGES)
    assert found == replace(published, reducing_gap=REDUCING_GAP)
