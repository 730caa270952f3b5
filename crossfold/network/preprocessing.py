"""Turn the pixels of decoded images into a network's input."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from crossfold.architectures import timm_name


class Normalization(NamedTuple):
    """Mean and standard deviation of each channel, for values from 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


# Of torchvision's published weights (https://docs.pytorch.org/vision/stable/models.html).
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def normalization(architecture: str) -> Normalization:
    """Look up the normalization that a network's published weights were trained with."""
    if name := timm_name(architecture):
        from . import timm_networks

        return timm_networks.normalization(name)
    return IMAGENET


def normalize(pixels: Tensor, normalization: Normalization = IMAGENET) -> Tensor:
    """Turn uint8 pixels [N, S, S, 3] into a network's input, float32 [N, 3, S, S]."""
    scaled = pixels.permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in normalization)
    return ((scaled - mean) / std).contiguous()


def from_pixels(network: nn.Module, normalization: Normalization) -> nn.Module:
    """Wrap a network, or its prefix, to take uint8 pixels [N, S, S, 3]."""
    return nn.Sequential(_Normalize(normalization), network)


class _Normalize(nn.Module):
    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        self.normalization = normalization

    def forward(self, pixels: Tensor) -> Tensor:
        return normalize(pixels, self.normalization)
