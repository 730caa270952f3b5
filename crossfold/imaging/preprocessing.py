"""How an image becomes a network's input. Each network carries its own preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Channels = tuple[float, ...]  # red, green, blue, for values from 0 to 1


@dataclass(frozen=True)
class Preprocessing:
    """The square that a network takes, and the normalization of its pixels.

    The defaults apply to networks that were stored before they carried their preprocessing. Mean
    and standard deviation are ImageNet's.

    Attributes:
        image_size: Side of the square, in pixels.
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        interpolation: Filter that scales the image, "bilinear" or "bicubic".
        crop: Share of the image's shorter side that the centre square covers, up to 1.
    """

    image_size: int
    mean: Channels = (0.485, 0.456, 0.406)
    std: Channels = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    crop: float = 1.0

    @classmethod
    def from_metadata(cls, about: Mapping[str, Any]) -> Preprocessing:
        """Read the preprocessing from a file's metadata; an older file has only `image_size`."""
        if "preprocessing" not in about:
            return cls(about["image_size"])
        stored = about["preprocessing"]
        channels = {name: tuple(stored[name]) for name in ("mean", "std")}
        return cls(**{**stored, **channels})
