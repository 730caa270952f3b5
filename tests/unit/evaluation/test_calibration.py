from math import exp, log

import numpy as np
import pytest
import torch
from scipy.optimize import brute
from torch import nn

from crossfold.evaluation import calibration, metrics


def true_probabilities(
    num_images: int, num_classes: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the very probabilities that are returned."""
    rng = np.random.default_rng(seed)
    odds = np.exp(2 * rng.normal(size=(num_images, num_classes)))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    below = probabilities.cumsum(axis=1) < rng.random((num_images, 1))
    return below.sum(axis=1), probabilities.astype(np.float32)


def test_error_is_that_of_the_paper() -> None:
    # Bins of width 1/5: three images in (0.6, 0.8], two of them right; one, wrong, in (0.8, 1].
    probabilities = np.array([[0.7, 0.3], [0.35, 0.65], [0.8, 0.2], [0.1, 0.9]])
    labels = np.array([0, 0, 0, 0])
    expected = 3 / 4 * abs(2 / 3 - (0.7 + 0.65 + 0.8) / 3) + 1 / 4 * abs(0 - 0.9)
    found = calibration.expected_calibration_error(labels, probabilities, num_bins=5)
    assert found == pytest.approx(expected)
    whole = calibration.reliability(labels, probabilities, num_bins=5)
    assert whole.error == found
    assert [(bin.low, bin.high, bin.num_images) for bin in whole.bins] == [
        (0.6, 0.8, 3),
        (0.8, 1.0, 1),
    ]
    assert [bin.accuracy for bin in whole.bins] == pytest.approx([2 / 3, 0])
    assert [bin.confidence for bin in whole.bins] == pytest.approx([2.15 / 3, 0.9])


def test_error_matches_a_loop_over_bins() -> None:
    labels, probabilities = true_probabilities(500, 4)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    found = calibration.expected_calibration_error(labels, probabilities)
    assert found == pytest.approx(expected, abs=1e-6)


def test_true_probabilities_are_as_far_off_as_chance_has_it() -> None:
    within, errors, by_chance = [], [], []
    for seed in range(40):
        found = calibration.reliability(*true_probabilities(300, 3, seed))
        within += [bin.chance[0] <= bin.accuracy <= bin.chance[1] for bin in found.bins]
        errors.append(found.error)
        by_chance.append(found.error_by_chance)
    assert 0.93 <= np.mean(within) <= 1  # of few images, more than 95 % are inside
    assert np.mean(errors) == pytest.approx(np.mean(by_chance), rel=0.1)


def test_too_sure_probabilities_are_farther_off_than_chance() -> None:
    labels, probabilities = true_probabilities(300, 3)
    found = calibration.reliability(labels, calibration.tempered(probabilities, 0.3))
    assert found.error > 3 * found.error_by_chance
    assert not all(bin.chance[0] <= bin.accuracy <= bin.chance[1] for bin in found.bins)


def test_reliability_is_the_same_whatever_is_drawn_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels, probabilities = true_probabilities(50, 3)
    whole = calibration.reliability(labels, probabilities)
    cool = calibration.tempered(probabilities, 2)
    loss = calibration._loss(labels, probabilities, 2)
    monkeypatch.setattr(calibration, "_MOST_AT_A_TIME", 120)
    assert calibration.reliability(labels, probabilities) == whole
    np.testing.assert_array_equal(calibration.tempered(probabilities, 2), cool)
    assert calibration._loss(labels, probabilities, 2) == pytest.approx(loss)
    assert calibration.reliability(labels, probabilities, seed=1) != whole


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7, 4.0])
def test_the_temperature_that_spoilt_probabilities_is_found(temperature: float) -> None:
    labels, probabilities = true_probabilities(4000, 5)
    spoilt = calibration.tempered(probabilities, 1 / temperature)
    found = calibration.fit_temperature(labels, spoilt)
    assert found == pytest.approx(temperature, rel=0.05)
    assert found == calibration.fit_temperature(labels, spoilt)
    mended = calibration.tempered(spoilt, found)
    np.testing.assert_array_equal(mended.argmax(axis=1), spoilt.argmax(axis=1))
    losses = [metrics.scores(labels, p)["loss"] for p in (mended, spoilt, probabilities)]
    assert losses[0] <= min(losses[1:]) + 1e-6


def test_no_other_temperature_is_likelier() -> None:
    labels, probabilities = true_probabilities(200, 3)
    logits = torch.from_numpy(probabilities).double().log()

    def loss(log_temperature: np.ndarray) -> float:
        scaled = logits / exp(log_temperature[0])
        return float(nn.functional.cross_entropy(scaled, torch.from_numpy(labels)))

    best = brute(loss, [(log(0.1), log(10))], Ns=200)
    found = calibration.fit_temperature(labels, probabilities)
    assert log(found) == pytest.approx(float(best[0]), abs=1e-3)


def test_tempered_is_the_softmax_of_the_divided_logits() -> None:
    logits = torch.randn((7, 4), generator=torch.Generator().manual_seed(0))
    found = calibration.tempered(logits.softmax(dim=1).numpy(), 2.5)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (logits / 2.5).softmax(dim=1), atol=1e-6)


@pytest.mark.parametrize("label", [0, 1])
def test_without_a_mistake_or_a_hit_there_is_nothing_to_fit(label: int) -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4]], np.float32)
    assert calibration.fit_temperature(np.array([label, label]), probabilities) == 1.0


def test_an_impossible_label_keeps_the_temperature_within_bounds() -> None:
    labels = np.array([0, 1, 1, 1])
    probabilities = np.array([[0, 1], [1, 0], [1, 0], [0, 1]], np.float32)
    assert 1 < calibration.fit_temperature(labels, probabilities) <= 10.001


def test_what_an_evaluation_holds_tells_of_before_and_after() -> None:
    labels, probabilities = true_probabilities(3000, 4)
    spoilt = calibration.tempered(probabilities, 0.5)
    temperature = calibration.fit_temperature(labels, spoilt)
    found = calibration.assess(labels, calibration.tempered(spoilt, temperature), temperature)
    assert found.temperature == temperature
    assert found.error < found.without.error
    assert found.without.error == pytest.approx(
        calibration.expected_calibration_error(labels, spoilt), abs=1e-5
    )
    assert found.without.loss == pytest.approx(metrics.scores(labels, spoilt)["loss"])
    assert sum(bin.num_images for bin in found.bins) == 3000
