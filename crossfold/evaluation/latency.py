"""Measure the latency of one prediction, from an image file's bytes to probabilities."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from crossfold.imaging import decoding
from crossfold.records import Latency

if TYPE_CHECKING:
    from crossfold.network.openvino_engine import Classifier

NUM_WARM_UP = 5
NUM_TIMED = 100
MIN_TIMED = 20
MAX_SECONDS = 1.0


def measure(network: "Classifier", encoded: Sequence[bytes], num_threads: int) -> Latency:
    """Time predictions of single images, decoding included, after a warm-up.

    Takes the images in turn until NUM_TIMED predictions are timed, or, after MIN_TIMED of them,
    MAX_SECONDS have passed.
    """

    def predict(image: bytes) -> None:
        pixels = decoding.square(image, network.preprocessing.geometry)
        network.predict(np.stack([pixels]))

    for turn in range(NUM_WARM_UP):
        predict(encoded[turn % len(encoded)])
    taken: list[float] = []
    end = time.perf_counter() + MAX_SECONDS
    while len(taken) < MIN_TIMED or (len(taken) < NUM_TIMED and time.perf_counter() < end):
        image = encoded[len(taken) % len(encoded)]
        start = time.perf_counter()
        predict(image)
        taken.append(1000 * (time.perf_counter() - start))
    median, p99 = np.quantile(taken, [0.5, 0.99])
    return Latency(median_ms=median, p99_ms=p99, num_images=len(taken), num_threads=num_threads)
