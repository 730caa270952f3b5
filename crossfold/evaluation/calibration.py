"""Measure and improve calibration: whether a classifier's probabilities match its accuracy.

Labels are integers in [0, K); probabilities have the shape [N, K]; K >= 2 and N >= 1.
"""

from collections.abc import Iterator
from math import exp, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfold.records import Bin, Calibration, Reliability, Uncalibrated

from .metrics import TAILS, scores

NUM_BINS = 15  # as in Guo et al.
NUM_DRAWS = 1000
MAX_TEMPERATURE = 10.0
_DIGITS = 3  # after the point; the loss hardly changes with the next one
_MOST_AT_A_TIME = 2**22  # numbers in one computation, to bound memory


def tempered(probabilities: NDArray[Any], temperature: float) -> NDArray[np.float32]:
    """Apply a temperature: softmax(logits / temperature) [N, K] from softmax(logits)."""
    scaled = np.empty(probabilities.shape, np.float32)
    for rows in _slices(probabilities):
        odds = np.exp(_logits(probabilities[rows], temperature))
        scaled[rows] = odds / odds.sum(axis=1, keepdims=True)
    return scaled


def fit_temperature(labels: NDArray[Any], probabilities: NDArray[Any]) -> float:
    """Fit the temperature that makes the labels likeliest, at most MAX_TEMPERATURE.

    The images must be new to the networks that predicted them. A temperature above 1 means that
    the probabilities were overconfident, below 1 underconfident. The most likely class never
    changes. C. Guo, G. Pleiss, Y. Sun and K. Weinberger, "On calibration of modern neural
    networks", 2017 (https://arxiv.org/abs/1706.04599), section 4.2.

    The temperature is 1 if all predictions are right, or all wrong: such data can't determine it.
    It is rounded, so that it doesn't depend on how a processor rounds.
    """
    from scipy.optimize import minimize_scalar

    right = np.argmax(probabilities, axis=1) == labels
    if right.all() or not right.any():
        return 1.0
    reach = log(MAX_TEMPERATURE)
    minimum = minimize_scalar(
        lambda log_temperature: _loss(labels, probabilities, exp(log_temperature)),
        bounds=(-reach, reach),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return round(exp(float(minimum.x)), _DIGITS)


def expected_calibration_error(
    labels: NDArray[Any], probabilities: NDArray[Any], num_bins: int = NUM_BINS
) -> float:
    """Compute the mean distance between confidence and accuracy over bins of equal width.

    Each bin is weighted by its number of images. Guo et al. (see `fit_temperature`), equation 3.
    """
    confidence, right = _confidence(labels, probabilities)
    ends = _bin_ends(confidence, num_bins)
    distances = np.abs(_sums(right, ends) - _sums(confidence, ends))
    return float(distances.sum() / len(confidence))


def reliability(
    labels: NDArray[Any],
    probabilities: NDArray[Any],
    num_bins: int = NUM_BINS,
    *,
    seed: int = 0,
) -> Reliability:
    """Compute the reliability curve, its error, and the error by chance; omit empty bins.

    With few images, even true probabilities don't lie on the diagonal. NUM_DRAWS random draws show
    how far they would be off: J. Broecker and L. Smith, "Increasing the reliability of reliability
    diagrams", Weather and Forecasting 22 (2007), pages 651-661.
    """
    confidence, right = _confidence(labels, probabilities)
    ends = _bin_ends(confidence, num_bins)
    sizes, drawn = np.diff(ends), _draws(confidence, ends, np.random.default_rng(seed))
    low, high = np.quantile(drawn, TAILS, axis=0) / np.maximum(sizes, 1)
    mean_confidence, accuracy = (
        _sums(values, ends) / np.maximum(sizes, 1) for values in (confidence, right)
    )
    bins = tuple(
        Bin(
            low=i / num_bins,
            high=(i + 1) / num_bins,
            num_images=int(sizes[i]),
            confidence=float(mean_confidence[i]),
            accuracy=float(accuracy[i]),
            chance=(float(low[i]), float(high[i])),
        )
        for i in np.flatnonzero(sizes).tolist()
    )
    by_chance = np.abs(drawn - _sums(confidence, ends)).sum(axis=1) / len(confidence)
    error = expected_calibration_error(labels, probabilities, num_bins)
    return Reliability(bins=bins, error=error, error_by_chance=float(by_chance.mean()))


def assess(labels: NDArray[Any], probabilities: NDArray[Any], temperature: float) -> Calibration:
    """Measure reliability with and without the temperature; `probabilities` include it."""
    without = tempered(probabilities, 1 / temperature)
    return Calibration(
        temperature=temperature,
        **dict(reliability(labels, probabilities)),
        without=Uncalibrated(
            **dict(reliability(labels, without)), loss=scores(labels, without)["loss"]
        ),
    )


def _slices(probabilities: NDArray[Any]) -> Iterator[slice]:
    """Yield slices of rows, each small enough for one computation."""
    size = max(1, _MOST_AT_A_TIME // probabilities.shape[1])
    for start in range(0, len(probabilities), size):
        yield slice(start, start + size)


def _logits(probabilities: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    """Compute logits [N, K] at a temperature, shifted so that the largest in each row is 0.

    Only probabilities that a float32 softmax underflows are altered.
    """
    tiny = np.finfo(np.float32).tiny
    logits = np.log(np.maximum(np.asarray(probabilities, np.float64), tiny)) / temperature
    shifted: NDArray[np.float64] = logits - logits.max(axis=1, keepdims=True)
    return shifted


def _loss(labels: NDArray[Any], probabilities: NDArray[Any], temperature: float) -> float:
    """Compute the mean negative log likelihood at a temperature."""
    total = 0.0
    for rows in _slices(probabilities):
        logits, of_label = _logits(probabilities[rows], temperature), labels[rows]
        total += float(np.log(np.exp(logits).sum(axis=1)).sum())
        total -= float(logits[np.arange(len(of_label)), of_label].sum())
    return total / len(labels)


def _confidence(
    labels: NDArray[Any], probabilities: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Sort the predicted classes' probabilities [N], and list whether each is right [N]."""
    confidence = np.max(probabilities, axis=1).astype(np.float64)
    order = np.argsort(confidence, kind="stable")
    return confidence[order], (np.argmax(probabilities, axis=1) == labels)[order]


def _bin_ends(confidence: NDArray[np.float64], num_bins: int) -> NDArray[np.int64]:
    """Locate the ends of the bins in the sorted confidences: [num_bins + 1], the first is 0."""
    edges = np.linspace(0, 1, num_bins + 1)
    ends = np.searchsorted(confidence, edges, side="right")
    ends[0], ends[-1] = 0, len(confidence)  # float32 may round a probability to above 1
    return ends


def _sums(values: NDArray[Any], ends: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum values [..., N] over each bin: [..., num_bins]."""
    before = np.cumsum(values, axis=-1, dtype=np.float64)
    padded = np.concatenate([np.zeros((*values.shape[:-1], 1)), before], axis=-1)
    sums: NDArray[np.float64] = np.diff(padded[..., ends], axis=-1)
    return sums


def _draws(
    confidence: NDArray[np.float64], ends: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw each bin's number of right predictions under true confidences, [NUM_DRAWS, bins]."""
    size = max(1, _MOST_AT_A_TIME // len(confidence))
    return np.concatenate(
        [
            _sums(rng.random((min(size, NUM_DRAWS - start), len(confidence))) < confidence, ends)
            for start in range(0, NUM_DRAWS, size)
        ]
    )
