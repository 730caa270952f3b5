import numpy as np
import pytest

from crossfold.diagnosis.trust.power import _num_needed, _smallest_difference


def test_the_smallest_difference_is_the_one_that_so_many_images_show() -> None:
    """Of many drawn comparisons with that difference, four in five are significant."""
    num_images = _num_needed(0.1, 0.25)
    shares = [(0.25 + 0.1) / 2, (0.25 - 0.1) / 2, 0.75]
    first, second, _ = np.random.default_rng(0).multinomial(num_images, shares, size=20_000).T
    significant = abs(first - second) / np.sqrt(first + second) > 1.96
    assert significant.mean() == pytest.approx(0.8, abs=0.03)
    assert _smallest_difference(0.25, num_images) == pytest.approx(0.1, abs=0.002)
    assert _smallest_difference(0.01, 50) > 0.01  # with few images, they must disagree more
