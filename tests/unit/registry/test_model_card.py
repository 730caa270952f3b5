import numpy as np
import pytest

from crossfold.evaluation import calibration, metrics
from crossfold.evaluation.curves import compute_curves
from crossfold.records import Evaluation, Leaderboard, Registration, Verdict
from crossfold.registry import model_card
from tests.unit.networks import FACTS

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
SCORES = {"macro_f1": 0.9, "accuracy": 0.91, "loss": 0.2, "mcc": 0.8}
BOARD = Leaderboard.model_validate(
    {
        "choice": "best",
        "classes": ["cat", "dog"],
        "num_folds": 5,
        "candidates": [
            {
                "candidate": {
                    "name": "head wd=0",
                    "freeze_backbone": True,
                    "train_from": "head",
                    "weight_decay": 0,
                },
                "backbone": FACTS,
                "mean": SCORES,
                "std": {"macro_f1": 0.01, "accuracy": 0.02, "loss": 0.03, "mcc": 0.04},
                "interval": dict.fromkeys(SCORES, (0.8, 1)),
                "folds": [],
                "against_chosen": None,
            }
        ],
        "diverged": [],
        "chosen_index": 0,
        "num_epochs": 3,
        "temperature": 1,
    }
)
REGISTERED = Registration(
    name="pets",
    version="7",
    aliases=(),
    gate="refused",
    verdict=Verdict.UNDECIDED,
    reason="macro F1 0.9 | not shown",
    created=True,
    comparison=None,
    num_judged_before=1,
)


def evaluation(classes: list[str]) -> Evaluation:
    labels = np.arange(20) % len(classes)
    probabilities = np.eye(len(classes))[labels]
    return Evaluation.model_validate(
        {
            "classes": classes,
            "paths": [f"{n}.png" for n in range(20)],
            "labels": labels.tolist(),
            "probabilities": probabilities.tolist(),
            "metrics": metrics.scores(labels, probabilities),
            "intervals": metrics.bootstrap_intervals(labels, probabilities),
            "class_f1_intervals": [],
            "confusion_matrix": [],
            "curves": compute_curves(labels, probabilities),
            "calibration": calibration.assess(labels, probabilities, 1.0),
            "activation_maps": [],
            "latency": {"median_ms": 1, "p99_ms": 2, "num_images": 9, "num_threads": 1},
            "weights_hash": "a",
            "data_hash": "b",
            "split_hash": "c",
            "export": {
                "by": "openvino 1",
                "num_compared": 12,
                "max_difference": 0,
                "num_different": 0,
            },
        }
    )


def test_the_card_has_classes_use_scores_gate_and_lineage() -> None:
    card = model_card.render(TAGS, BOARD, evaluation(["cat", "dog"]), REGISTERED)
    for text in (
        "# pets version 7",
        "2 classes: cat, dog.",
        "3 epochs",
        "80 images",
        "crossfold predict IMAGE --model pets/7",
        'load_model("models:/pets/7")',
        "| | test, 20 images | 95 % interval | cross-validation, 5 folds |",
        "| loss | ",
        "0.2000 ± 0.0300",
        "Refused, undecided: macro F1 0.9 \\| not shown",
        "1 other version",
        "| git commit | 0123abc plus ",
        "| libraries | numpy 1.0, torch 2.0 |",
        "`crossfold lineage 7`",
    ):
        assert text in card


@pytest.mark.parametrize("name", ["x" * 200, "*_|`#<b>"])
def test_long_and_odd_names_leave_the_card_whole(name: str) -> None:
    classes = [f"{name}{n}" for n in range(20)]
    registered = REGISTERED.model_copy(update={"reason": name * 100})
    card = model_card.render(TAGS, BOARD, evaluation(classes), registered)
    assert len(card) <= model_card.MAX_LENGTH
    assert "`crossfold lineage 7`" in card.splitlines()[-1]
