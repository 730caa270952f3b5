"""Drop the digits of figures that may differ between machines."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGITS = 6


def rounded(value: float) -> float:
    """Round a figure of a record."""
    return round(float(value), DIGITS) + 0.0  # no -0


def rounded_probabilities(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """Round probabilities, so that ranks and counts are the same on every machine."""
    wide: NDArray[np.float64] = probabilities.astype(np.float64)
    return wide.round(DIGITS)
