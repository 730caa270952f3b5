"""Store a trained network as one file, and predict with it in torch."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from crossfold.imaging.preprocessing import Preprocessing
from crossfold.settings import HEAD

from .backbone import build_network
from .cutting import between, prefix, suffix, trace
from .normalization import from_pixels
from .safetensors_file import read_metadata
from .views import mean_over_views, with_views


class Network:
    """A trained network computed by torch: the reference for the export."""

    def __init__(self, path: Path) -> None:
        """Load a file from `save_network`; nothing in it is executed."""
        about = read_metadata(path)
        self.architecture: str = about["architecture"]
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.preprocessing = Preprocessing.from_metadata(about)
        # Versions that were registered before there was a choice do not name these.
        self.precision: str = about.get("precision", "float32")
        self.temperature: float = about.get("temperature", 1.0)
        self.views: tuple[str, ...] = tuple(about.get("views", ()))
        network = build_network(self.architecture, len(self.classes), seed=0)
        network.load_state_dict(safetensors.torch.load_file(path))
        self.traced = trace(network)

    @torch.inference_mode()
    def predict(
        self, images: np.ndarray[Any, np.dtype[np.uint8]]
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Predict probabilities float32 [N, K] for uint8 pixels [N, S, S, 3] of its size.

        They are computed in float32, whatever the network's precision, and are
        softmax(logits / temperature), see `calibration.fit_temperature`. With views, they are the
        mean over the image and its views, with the temperature applied to that.
        """
        _, probabilities = self._exportable_fast(torch.from_numpy(images))
        computed: np.ndarray[Any, np.dtype[np.float32]] = probabilities.numpy()
        return computed

    @cached_property
    def _exportable_fast(self) -> nn.Module:
        # ResNet18 takes 0.8 of the time with channels last.
        return self.exportable().to(memory_format=torch.channels_last)

    def exportable(self) -> nn.Module:
        """Build one module for the export: pixels in, the head's input and probabilities out."""
        return nn.Sequential(self.normalization(), self._ending(prefix(self.traced, [HEAD])))

    def normalization(self) -> nn.Module:
        """Build the beginning: uint8 pixels in, normalized images and their views out."""
        return from_pixels(with_views(nn.Identity(), self.views), self.preprocessing)

    def ending(self, cut: str) -> nn.Module:
        """Build the part after a cut: its values in, the head's input and probabilities out."""
        return self._ending(between(self.traced, cut, HEAD))

    def _ending(self, before_head: nn.Module) -> nn.Module:
        return _Ending(before_head, suffix(self.traced, HEAD), self.views, self.temperature)


class _Ending(nn.Module):
    def __init__(
        self, before_head: nn.Module, head: nn.Module, views: Sequence[str], temperature: float
    ) -> None:
        super().__init__()
        self.before_head, self.head = before_head, head
        self.views, self.temperature = views, temperature

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        (features,) = self.before_head(values)
        logits = self.head(features)
        if not self.views:
            return features, (logits / self.temperature).softmax(dim=1)
        mean = mean_over_views(logits.softmax(dim=1), 1 + len(self.views))
        # softmax(log(mean) / temperature), where a probability may be 0.
        scaled = mean ** (1 / self.temperature)
        return features, scaled / scaled.sum(dim=1, keepdim=True)


def save_network(
    path: Path,
    network: nn.Module,
    *,
    architecture: str,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    precision: str,
    temperature: float = 1.0,
    views: Sequence[str] = (),
) -> None:
    """Write all weights, and the metadata to use them, as one safetensors file.

    `views` are those that a prediction averages over, beside the image itself.
    """
    about = {
        "architecture": architecture,
        "classes": list(classes),
        "preprocessing": asdict(preprocessing),
        "precision": precision,
        "temperature": temperature,
        "views": list(views),
    }
    safetensors.torch.save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()},
        path,
        metadata={"crossfold": json.dumps(about, sort_keys=True)},
    )
