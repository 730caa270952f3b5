"""Views of an image: variants of it that keep its class.

A fixed view is a function of the network's input. In front of a prefix it becomes part of the
OpenVINO graph, so stored features and predictions come from the very same function. A candidate
that trains from the pixels draws random variants instead, anew in each epoch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

CROP = 0.8  # share of the side, and the least one that is drawn


@dataclass(frozen=True)
class _Kind:
    """A kind of view: its fixed variant of images [N, 3, S, S], and the one that is drawn."""

    fixed: Callable[[Tensor], Tensor]
    drawn: Callable[[int], nn.Module]  # by the side S, for one image


def _mirrored(images: Tensor) -> Tensor:
    return images.flip(-1)


def _cropped(images: Tensor) -> Tensor:
    """Enlarge the centre square of the share CROP of the side."""
    side = int(images.shape[-1])  # torch.jit would trace it as a tensor
    kept = round(CROP * side)
    start = (side - kept) // 2
    centre = images[..., start : start + kept, start : start + kept]
    return nn.functional.interpolate(centre, size=(side, side), mode="bilinear")


def _any_crop(side: int) -> nn.Module:
    crop: nn.Module = v2.RandomResizedCrop(side, scale=(CROP**2, 1.0), ratio=(1.0, 1.0))
    return crop


KINDS = {
    "mirrored": _Kind(_mirrored, lambda side: v2.RandomHorizontalFlip()),
    "cropped": _Kind(_cropped, _any_crop),
}


class WithViews(nn.Module):
    """Images [N, 3, S, S] to [N * V, 3, S, S]: each image, and after it its views."""

    def __init__(self, views: Sequence[str]) -> None:
        super().__init__()
        self.views = tuple(views)

    def forward(self, images: Tensor) -> Tensor:
        """Stack the views of each image one after another."""
        variants = [images, *(KINDS[view].fixed(images) for view in self.views)]
        return torch.stack(variants, dim=1).flatten(0, 1)


class DrawnViews(nn.Module):
    """In training, a random variant of each image; in evaluation, as `WithViews`.

    It draws from torch's global generator, as dropout does.
    """

    def __init__(self, drawn: Sequence[str], predicted: Sequence[str], side: int) -> None:
        super().__init__()
        self.draw = nn.Sequential(*(KINDS[view].drawn(side) for view in drawn))
        self.with_views = WithViews(predicted)

    def forward(self, images: Tensor) -> Tensor:
        """Return [N, 3, S, S] in training, and [N * V, 3, S, S] in evaluation."""
        if not self.training:
            variants: Tensor = self.with_views(images)
            return variants
        return torch.stack([self.draw(image) for image in images])


def with_views(network: nn.Module, views: Sequence[str]) -> nn.Module:
    """Let a network compute the views of its images too; without views, it stays as it is."""
    return nn.Sequential(WithViews(views), network) if views else network


def mean_over_views(probabilities: Tensor, num_views: int) -> Tensor:
    """Average probabilities [N * V, K], in the order of `WithViews`, to [N, K]."""
    return probabilities.view(-1, num_views, probabilities.shape[1]).mean(dim=1)
