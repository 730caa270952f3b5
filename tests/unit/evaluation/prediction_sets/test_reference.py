from pathlib import Path

import numpy as np

from crossfold.evaluation.prediction_sets.class_scores import ClassScores
from crossfold.evaluation.prediction_sets.measured_coverage import measure
from crossfold.evaluation.prediction_sets.novelty import Novelty
from crossfold.evaluation.prediction_sets.reference import Reference
from tests.unit.references import write_reference

CLASSES = ("cat", "dog", "owl")
# The p-value of a label is its probability, see `write_reference`.
PROBABILITIES = np.array([[0.9, 0.06, 0.04], [0.5, 0.3, 0.2], [0.11, 0.8, 0.09]], np.float32)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    scores = ClassScores((np.array([1, 5]), np.array([], np.int64), np.array([7])))
    features = np.eye(3, 4, dtype=np.float32)
    for novelty in (None, Novelty(features, 0.25)):
        Reference(CLASSES, scores, novelty).write(tmp_path / "file")
        found = Reference.read(tmp_path / "file")
        assert found.classes == CLASSES
        assert [list(of_class) for of_class in found.scores.by_class] == [[1, 5], [], [7]]
        assert (found.novelty is None) == (novelty is None)
        if found.novelty:
            assert np.array_equal(found.novelty.references, features)
            assert found.novelty.max_distance == 0.25


def test_one_label_is_decided_on_and_several_are_unsure(tmp_path: Path) -> None:
    write_reference(tmp_path / "file", CLASSES)
    reference, features = Reference.read(tmp_path / "file"), np.zeros((3, 4))
    first, second, third = reference.answers(features, PROBABILITIES, 0.9)
    assert (first.labels, first.decision) == (("cat",), "cat")
    assert (second.labels, second.decision) == (CLASSES, "unsure")
    assert third.labels == ("cat", "dog")
    assert [first.novel, second.novel] == [None, None]
    (nothing, _, _) = reference.answers(features, PROBABILITIES, 0.05)
    assert (nothing.labels, nothing.decision) == ((), "unsure")


def test_novelty_is_told_of_each_image(tmp_path: Path) -> None:
    scores = ClassScores((np.arange(9),) * 3)
    reference = Reference(CLASSES, scores, Novelty(np.eye(3, 4, dtype=np.float32), 0.25))
    features = np.array([[2, 0, 0, 0], [0, 0, 0, 2], [0, 2, 0, 0]], np.float32)
    answers = reference.answers(features, PROBABILITIES, 0.9)
    assert [answer.novel for answer in answers] == [False, True, False]


def test_coverage_is_measured_by_class(tmp_path: Path) -> None:
    write_reference(tmp_path / "file", CLASSES)
    found = measure(Reference.read(tmp_path / "file"), np.array([0, 0, 2]), PROBABILITIES, 1)
    level, _ = found.levels
    assert (found.num_images, found.num_novel, level.coverage) == (3, 1, 0.9)
    assert level.measured == 2 / 3 and level.mean_size == 2
    low, high = level.interval
    assert low < 2 / 3 < high
    assert (level.num_single, level.num_single_right) == (1, 1)
    assert (level.num_several, level.num_empty) == (2, 0)
    assert (level.worst.name, level.worst.num_covered, level.worst.num_images) == ("owl", 0, 1)
    assert level.always_inside == ()
