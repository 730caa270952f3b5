"""How an image becomes a network's input. Each network carries its own preprocessing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# 1 of 315 predictions differed from those on images scaled in one step, and 2 with a gap of 1:
# docs/decisions/036-preprocessing.md.
REDUCING_GAP = 2.0

Channels = tuple[float, ...]  # red, green, blue, for values from 0 to 1


@dataclass(frozen=True)
class SquareGeometry:
    """All that decides a square's pixels, beside the image; see `Preprocessing`."""

    image_size: int
    interpolation: str = "bilinear"
    crop: float = 1.0
    reducing_gap: float | None = None

    @property
    def smallest_decoded(self) -> tuple[int, int] | None:
        """The smallest size that a decoder may reduce an image to; None: it must not."""
        if self.reducing_gap is None:
            return None
        side = math.ceil(self.image_size * self.reducing_gap / self.crop)
        return side, side

    def __str__(self) -> str:
        return f"{self.image_size} pixels, {self.interpolation}, crop {self.crop:g}"


def read_geometries(squares: Iterable[Mapping[str, Any]]) -> tuple[SquareGeometry, ...]:
    """Read geometries from plain dictionaries.

    Kubeflow hands whole numbers on as floats on this machine, and 2.0 as 2 on a cluster.
    """
    return tuple(
        SquareGeometry(
            image_size=int(square["image_size"]),
            interpolation=square["interpolation"],
            crop=float(square["crop"]),
            reducing_gap=None if square["reducing_gap"] is None else float(square["reducing_gap"]),
        )
        for square in squares
    )


@dataclass(frozen=True)
class Preprocessing:
    """The square that a network takes, and the normalization of its pixels.

    The defaults apply to networks that were stored before they carried their preprocessing, or a
    part of it. Mean and standard deviation are ImageNet's.

    Attributes:
        image_size: Side of the square, in pixels.
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        interpolation: Filter that scales the image, "bilinear" or "bicubic".
        crop: Share of the image's shorter side that the centre square covers, up to 1.
        reducing_gap: A larger image is first reduced by a whole factor, to no less than this many
            times the square; JPEG's decoder does it at no cost. None: it is scaled in one step.
    """

    image_size: int
    mean: Channels = (0.485, 0.456, 0.406)
    std: Channels = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    crop: float = 1.0
    reducing_gap: float | None = None

    @property
    def geometry(self) -> SquareGeometry:
        """The part that decides the pixels of the square."""
        return SquareGeometry(self.image_size, self.interpolation, self.crop, self.reducing_gap)

    @classmethod
    def from_metadata(cls, about: Mapping[str, Any]) -> Preprocessing:
        """Read the preprocessing from a file's metadata; an older file has only `image_size`."""
        if "preprocessing" not in about:
            return cls(about["image_size"])
        stored = about["preprocessing"]
        channels = {name: tuple(stored[name]) for name in ("mean", "std")}
        return cls(**{**stored, **channels})
