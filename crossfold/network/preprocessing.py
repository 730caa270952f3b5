"""Turn the pixels of decoded images into a network's input."""

import torch
from torch import Tensor, nn

# Mean and standard deviation that torchvision's published weights were trained with
# (https://docs.pytorch.org/vision/stable/models.html).
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def normalize(pixels: Tensor) -> Tensor:
    """Turn uint8 pixels [N, S, S, 3] into a network's input, float32 [N, 3, S, S]."""
    scaled = pixels.permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    return ((scaled - mean) / std).contiguous()


def from_pixels(network: nn.Module) -> nn.Module:
    """Wrap a network, or its prefix, to take uint8 pixels [N, S, S, 3]."""
    return nn.Sequential(_Normalize(), network)


class _Normalize(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return normalize(pixels)
