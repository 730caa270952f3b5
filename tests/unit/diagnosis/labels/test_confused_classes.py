from pathlib import Path

import numpy as np

from crossfold.diagnosis.evidence import Evidence
from crossfold.diagnosis.labels.confused_classes import find_confused_classes
from tests.unit.diagnosis.evidences import evidence

NUM_CLASSES, NUM_IMAGES = 5, 40  # of each class
LABELS = np.repeat(np.arange(NUM_CLASSES), NUM_IMAGES)


def taken_for(examples: Path, predicted: np.ndarray, probability: float) -> Evidence:
    """Make evidence that gives `probability` to the predicted classes."""
    others = (1 - probability) / (NUM_CLASSES - 1)
    probabilities = np.full((len(LABELS), NUM_CLASSES), others)
    probabilities[np.arange(len(LABELS)), predicted] = probability
    return evidence(examples, LABELS, probabilities)


def test_two_classes_that_look_alike_are_named(examples: Path) -> None:
    predicted = LABELS.copy()
    predicted[:12], predicted[40:46], predicted[90] = 1, 0, 4
    probabilities = np.where(LABELS[:, np.newaxis] == np.arange(NUM_CLASSES), 0.8, 0.05)
    unsure = predicted != LABELS  # less than their classes' mean, so no label errors
    probabilities[unsure] = 0.14
    probabilities[unsure, predicted[unsure]] = 0.44
    (pair,) = find_confused_classes(evidence(examples, LABELS, probabilities)).pairs
    assert pair.classes == ("0", "1")
    assert (pair.first_as_second, pair.second_as_first, pair.num_mistakes) == (12, 6, 18)
    assert pair.num_images == (40, 40)
    assert pair.expected == 1.9  # of 19 mistakes, over 10 pairs
    assert pair.p_value < 0.001


def test_mistakes_that_wrong_labels_explain_are_no_confusion(examples: Path) -> None:
    predicted = LABELS.copy()
    predicted[:12] = 1
    assert not find_confused_classes(taken_for(examples, predicted, 0.96)).pairs


def test_mistakes_spread_evenly_name_no_pair(examples: Path) -> None:
    predicted = LABELS.copy()
    predicted[::4] = np.random.default_rng(0).integers(0, NUM_CLASSES, len(LABELS) // 4)
    assert not find_confused_classes(taken_for(examples, predicted, 0.5)).pairs
