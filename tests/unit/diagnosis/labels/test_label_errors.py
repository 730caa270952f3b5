import json
from pathlib import Path

import numpy as np
import pytest

from crossfold.diagnosis.labels.label_errors import (
    confident_joint,
    estimated_errors,
    find_label_errors,
    issue_positions,
)
from crossfold.diagnosis.rounding import rounded_probabilities
from tests.unit.diagnosis.evidences import RECORDED, evidence

# Of cleanlab; the file names the version and the calls.
JUDGED = json.loads((RECORDED / "label_issues.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", JUDGED.values(), ids=JUDGED)
def test_cleanlab_lists_the_same_images(case: dict[str, list[int]]) -> None:
    labels, probabilities = (
        np.array(case["labels"]),
        rounded_probabilities(np.array(case["probabilities"])),
    )
    assert confident_joint(labels, probabilities).tolist() == case["confident_joint"]
    errors = estimated_errors(labels, probabilities)
    ours, theirs = set(issue_positions(labels, probabilities, errors)), set(case["issues"])
    for label in range(len(errors)):
        # cleanlab also rounds the other cells of a row, which may move a class's number by one.
        differing = [i for i in ours ^ theirs if labels[i] == label]
        assert len(differing) <= 1, (label, differing)


def test_a_confident_mistake_is_listed_and_a_hard_image_is_not(examples: Path) -> None:
    labels = np.repeat([0, 1, 2], 10)
    probabilities = np.full((30, 3), 0.05)
    probabilities[np.arange(30), labels] = 0.9
    probabilities[4] = 0.02, 0.08, 0.9  # a wrong label
    probabilities[5] = 0.3, 0.4, 0.3  # a mistake, but no class is confident
    found = find_label_errors(evidence(examples, labels, probabilities))
    (issue,) = found.issues
    assert issue.model_dump() == {
        "path": "4.png",
        "label": "0",
        "suggested": "2",
        "label_probability": 0.02,
        "suggested_probability": 0.9,
    }
    assert (found.num_images, found.num_mistakes, found.num_issues) == (30, 2, 1)
    assert [row.num_issues for row in found.classes] == [1, 0, 0]
    # 8 and 1 of the 9 images that have a confident class, scaled to 10 images.
    assert found.classes[0].num_errors == pytest.approx(10 / 9, abs=1e-6)
    assert found.error_share == pytest.approx(10 / 9 / 30, abs=1e-6)


def test_every_class_keeps_an_image_and_an_empty_one_is_no_suggestion(examples: Path) -> None:
    probabilities = np.array([[0.4, 0.6, 0.0]] * 2 + [[0.1, 0.9, 0.0]] * 5 + [[0.9, 0.1, 0.0]])
    labels = np.array([0, 0, 1, 1, 1, 1, 1, 1])
    found = find_label_errors(evidence(examples, labels, probabilities))
    assert [row.num_images for row in found.classes] == [2, 6, 0]
    assert found.classes[2].num_errors == 0
    assert {issue.suggested for issue in found.issues} == {"0"}
