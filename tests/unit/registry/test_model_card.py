from typing import Any

import numpy as np
import pytest

from crossfold.evaluation import metrics
from crossfold.registry import model_card

TAGS = {
    "architecture": "resnet18",
    "candidate": "head lr=0.1 wd=0",
    "num_epochs": "3",
    "num_train_images": "80",
    "num_test_images": "20",
    "git_commit": "0123abc",
    "git_dirty": "true",
    "libraries": '{"torch": "2.0", "numpy": "1.0"}',
}
BOARD = {
    "candidates": [
        {
            "mean": {"macro_f1": 0.9, "accuracy": 0.91, "loss": 0.2},
            "std": {"macro_f1": 0.01, "accuracy": 0.02, "loss": 0.03},
        }
    ],
    "best": 0,
    "num_folds": 5,
}
REGISTERED = {
    "name": "pets",
    "version": "7",
    "gate": "refused",
    "verdict": "undecided",
    "reason": "macro F1 0.9 | not shown",
    "num_judged_before": 1,
}


def evaluation(classes: list[str]) -> dict[str, Any]:
    labels = np.arange(20) % len(classes)
    probabilities = np.eye(len(classes))[labels]
    return {
        "classes": classes,
        "labels": labels.tolist(),
        "probabilities": probabilities.tolist(),
        "metrics": metrics.scores(labels, probabilities),
        "intervals": metrics.bootstrap_intervals(labels, probabilities),
    }


def test_the_card_says_what_people_ask() -> None:
    card = model_card.render(TAGS, BOARD, evaluation(["cat", "dog"]), REGISTERED)
    for text in (
        "# pets version 7",
        "Tells which of 2 classes an image is of: cat, dog.",
        "trained for 3 epochs on 80 images",
        "crossfold predict IMAGE --model pets/7",
        'load_model("models:/pets/7")',
        "| | test, 20 images | 95 % interval | cross-validation, 5 folds |",
        "| loss | ",
        "0.2000 ± 0.0300",
        "Refused, undecided: macro F1 0.9 \\| not shown.",
        "1 other version was judged",
        "| git commit | 0123abc with changes that are not in it |",
        "| libraries | numpy 1.0, torch 2.0 |",
        "`crossfold lineage 7`",
    ):
        assert text in card


@pytest.mark.parametrize("name", ["x" * 200, "*_|`#<b>"])
def test_long_and_odd_names_leave_the_card_whole(name: str) -> None:
    classes = [f"{name}{n}" for n in range(20)]
    registered = {**REGISTERED, "reason": name * 100}
    card = model_card.render(TAGS, BOARD, evaluation(classes), registered)
    assert len(card) <= model_card.MAX_LENGTH
    assert card.endswith("`crossfold lineage 7` prints all of it.")
