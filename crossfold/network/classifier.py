"""Predict with a trained network, without torch, which takes seconds to import."""

from pathlib import Path
from typing import Any

import numpy as np

from . import engine


class Classifier:
    """An exported network: pixels in, probabilities out.

    Attributes:
        classes: The names of the classes, in the order of the probabilities.
        image_size: Side of the square that it takes, in pixels.
    """

    def __init__(self, path: Path, num_threads: int = engine.ALL_CORES) -> None:
        """Load an exported network; nothing in the file is executed."""
        model, about = engine.load(path)
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.image_size: int = about["image_size"]
        features, head = engine.split(model)
        self._features = engine.compiled(features, about["precision"], num_threads)
        # As it was trained: in few digits its large terms do not cancel.
        self._head = engine.compiled(head, "float32", num_threads)

    def predict(
        self, images: np.ndarray[Any, np.dtype[np.uint8]]
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Predict probabilities float32 [N, K] for uint8 pixels [N, S, S, 3], S = image_size."""
        (features,) = self._features(images)
        (probabilities,) = self._head(features)
        return probabilities


def export(weights: Path, path: Path) -> None:
    """Export a network from train_final as a graph for `Classifier`."""
    from .backbone import Network

    network = Network(weights)
    about = {
        "architecture": network.architecture,
        "classes": network.classes,
        "image_size": network.image_size,
        "precision": network.precision,
    }
    engine.save(path, engine.from_torch(network.exportable(), network.image_size), about)
