"""Small networks with random weights, and images for them."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network import backbone, trained_network
from crossfold.records import BackboneFacts

SMALL = "squeezenet1_1"
# A backbone as records have it.
FACTS = BackboneFacts(
    name="resnet18",
    architecture="resnet18",
    weights="resnet18.safetensors",
    preprocessing=Preprocessing(32),
    num_parameters=11_000_000,
    num_bytes=44_000_000,
    milliseconds=1.5,
)
IMAGENET = Preprocessing(224)
SIZE_33 = Preprocessing(33)
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def pixels(count: int, size: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def build(architecture: str, num_classes: int = 3, seed: int = 0) -> nn.Module:
    """A network whose batch normalization has seen something."""
    network = backbone.build_network(architecture, num_classes, seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def save(
    path: Path,
    network: nn.Module,
    architecture: str = SMALL,
    precision: str = "float32",
    preprocessing: Preprocessing = SIZE_33,
    **about: Any,
) -> Path:
    trained_network.save_network(
        path,
        network,
        architecture=architecture,
        classes=("a", "b", "ü"),
        preprocessing=preprocessing,
        precision=precision,
        **about,
    )
    return path


def state(network: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(network.state_dict())
