import numpy as np
import pytest
import sklearn.metrics
from threadpoolctl import threadpool_limits

from crossfold.diagnosis.shortcuts import shortcut_test
from crossfold.diagnosis.shortcuts.facts import BORDER, CAMERA, COLOUR, FILE, Values
from crossfold.diagnosis.shortcuts.shortcut_test import FactsScore, Shortcuts, score_facts

CLASSES = ("cat", "dog", "emu")
LABELS = np.arange(240) % 3
FOLDS = np.arange(240) // 3 % 4
RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(240, 3))
MODEL = np.where(np.eye(3)[np.where(RNG.random(240) < 0.05, 0, LABELS)] > 0, 0.98, 0.01)


def found(**facts: Values) -> Shortcuts:
    return score_facts(facts, LABELS, FOLDS, MODEL, CLASSES, num_all=300)


def by_name(result: Shortcuts) -> dict[str, FactsScore]:
    return {score.facts: score for score in result.scores}


def test_facts_that_tell_the_classes_apart_are_suspicious_and_noise_is_not() -> None:
    sizes = (1000 * LABELS + 700 * RNG.random(240))[:, None]
    result = found(file=sizes, border=NOISE, camera=np.ones((240, 1)))
    scores = by_name(result)
    assert [score.facts for score in result.suspicious] == [FILE]
    assert scores[FILE].macro_f1 > 0.98
    assert scores[FILE].told_classes == CLASSES
    low, high = scores[BORDER].interval
    assert low < scores[BORDER].chance < high
    assert result.constant == (CAMERA,)
    assert result.summary == {"shortcut_macro_f1": scores[FILE].macro_f1}
    assert result == found(file=sizes, border=NOISE, camera=np.ones((240, 1)))


def test_one_class_from_another_camera_is_found() -> None:
    camera = np.stack([LABELS == 1, LABELS != 1], axis=1).astype(float)
    (score,) = found(camera=camera).suspicious
    assert score.told_classes == ("dog",)


def test_a_class_of_nearly_all_images_is_not_told_by_noise() -> None:
    labels = (np.arange(240) % 40 == 0).astype(np.int64)
    model = np.where(np.eye(2)[labels] > 0, 0.98, 0.02)
    result = score_facts({BORDER: NOISE}, labels, FOLDS, model, ("many", "few"), num_all=240)
    assert not result.suspicious


def test_mean_colour_gives_no_warning() -> None:
    result = found(colour=LABELS[:, None] + 0.1 * NOISE)
    assert by_name(result)[COLOUR].macro_f1 > 0.98
    assert not result.suspicious
    assert result.summary == {}


def test_a_model_without_a_signal_is_no_measure() -> None:
    blind = np.full((240, 3), 1 / 3)
    result = score_facts({BORDER: NOISE}, LABELS, FOLDS, blind, CLASSES, num_all=240)
    assert not result.suspicious


def test_scores_are_the_same_with_any_number_of_threads() -> None:
    results = []
    for number in (1, 2):
        with threadpool_limits(number):
            results.append(found(border=NOISE, file=NOISE[:, :1] + LABELS[:, None]))
    assert results[0] == results[1]


def test_chance_is_the_mean_over_permutations() -> None:
    sizes = (LABELS == 0).astype(float)[:, None]  # predictions are uneven
    (score,) = found(file=sizes).scores
    predictions = np.where(LABELS == 0, 0, 1)
    rng = np.random.default_rng(1)
    permuted = [
        sklearn.metrics.f1_score(rng.permutation(LABELS), predictions, average="macro")
        for _ in range(400)
    ]
    assert score.chance == pytest.approx(np.mean(permuted), abs=0.01)


def test_large_classes_are_sampled_evenly_and_small_ones_kept_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shortcut_test, "MAX_IMAGES", 25)
    labels = np.array([0] * 100 + [1] * 5)
    rows = shortcut_test._spread(labels)
    assert rows.tolist() == [*range(0, 100, 5), *range(100, 105)]
