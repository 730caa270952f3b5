"""Compare the exported network with torch on a fixed sample of the test split."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfold.data.examples import BATCH_SIZE, Pixels
from crossfold.network import openvino_engine
from crossfold.network.trained_network import Network
from crossfold.records import Export

# Predicting with torch takes two to seven times as long as with the export. Of 64 images, a fault
# that shows on 4.6 % of all is missed once in 20 times; of 256, one that shows on 1.2 %.
MIN_COMPARED, MAX_COMPARED = 64, 256
COMPARED_SHARE = 0.1
MAX_DIFFERENCE = 1e-3  # of a probability, in float32


def sample(num_images: int) -> NDArray[np.int64]:
    """List the positions of the images to compare, spread evenly over the test split.

    They are COMPARED_SHARE of it, but MIN_COMPARED (or all) at least and MAX_COMPARED at most.
    """
    number = min(num_images, MAX_COMPARED, max(MIN_COMPARED, int(COMPARED_SHARE * num_images)))
    return np.arange(number) * num_images // number


class TorchSample:
    """Predicts a sample of the test split with torch, while the split's batches pass by.

    Attributes:
        positions: the sample, int64 [M], ascending.
    """

    def __init__(self, network: Network, num_images: int) -> None:
        self.positions = sample(num_images)
        self._network, self._num_seen = network, 0
        self._waiting: list[Pixels] = []
        self._predicted: list[NDArray[np.float32]] = []

    def add(self, pixels: Pixels) -> None:
        """Take the images of the sample from the next batch, uint8 [B, S, S, 3]."""
        start, self._num_seen = self._num_seen, self._num_seen + len(pixels)
        first, last = np.searchsorted(self.positions, [start, self._num_seen])
        self._waiting += list(pixels[self.positions[first:last] - start])
        if len(self._waiting) >= BATCH_SIZE:  # one by one they take twice as long
            self._predict_waiting()

    def probabilities(self) -> NDArray[np.float32]:
        """Return torch's probabilities of the sample, [M, K], once all batches have passed."""
        if self._waiting:
            self._predict_waiting()
        return np.concatenate(self._predicted)

    def _predict_waiting(self) -> None:
        self._predicted.append(self._network.predict(np.stack(self._waiting)))
        self._waiting = []


def compare(network: Network, exported: NDArray[Any], torchs: NDArray[Any]) -> Export:
    """Compare the export's probabilities [M, K] with those of torch in float32.

    Raises:
        RuntimeError: they differ by more than MAX_DIFFERENCE, though computed in float32.
    """
    largest = float(np.abs(exported - torchs).max())
    if not np.isfinite(largest) or (network.precision == "float32" and largest > MAX_DIFFERENCE):
        raise RuntimeError(
            f"the exported {network.architecture} differs from torch by up to {largest:.2g} in a "
            "probability"
        )
    return Export(
        by=openvino_engine.ENGINE,
        num_compared=len(torchs),
        max_difference=largest,
        num_different=int((exported.argmax(axis=1) != torchs.argmax(axis=1)).sum()),
    )
