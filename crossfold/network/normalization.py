"""Turn the pixels of decoded images into a network's input."""

import torch
from torch import Tensor, nn

from crossfold.imaging.preprocessing import Preprocessing


def normalize(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Turn uint8 pixels [N, S, S, 3] into a network's input, float32 [N, 3, S, S]."""
    scaled = pixels.permute(0, 3, 1, 2).float() / 255
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std)
    )
    return ((scaled - mean) / std).contiguous()


def from_pixels(network: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """Wrap a network, or its prefix, to take uint8 pixels [N, S, S, 3]."""
    return nn.Sequential(_Normalize(preprocessing), network)


class _Normalize(nn.Module):
    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing

    def forward(self, pixels: Tensor) -> Tensor:
        return normalize(pixels, self.preprocessing)
