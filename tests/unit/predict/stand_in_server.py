"""`crossfold serve` with a network that predicts at once, and with short patience."""

import sys
from typing import Any

import numpy as np

from crossfold.imaging.preprocessing import Preprocessing
from crossfold.predict import connection_limits, server

Array = np.ndarray[Any, Any]


class _Network:
    """Gives each image the class that its first pixel's red value names."""

    preprocessing = Preprocessing(32)
    classes = tuple(map(str, range(256)))

    def predict_with_features(self, pixels: Array) -> tuple[Array, Array]:
        probabilities = np.eye(256)[pixels.reshape(len(pixels), -1)[:, 0]]
        return probabilities, probabilities


if __name__ == "__main__":
    connection_limits.HEADER_PATIENCE = 1
    connection_limits.BODY_PATIENCE = 2
    network: Any = _Network()
    model = server.ServedModel("crossfold", "1", network, reference=None)
    server.run(server.ScoringApp(model), int(sys.argv[1]))
