"""What is computed, on both sides alike."""

from dataclasses import dataclass
from typing import Any

ARCHITECTURE = "resnet18"


@dataclass(frozen=True)
class Workload:
    """A cross-validation of one head, a final fit and a test; `image_size` in pixels.

    Patience equals the number of epochs, so that no fit stops early and passes can be counted
    beforehand; the rule itself is applied on both sides.
    """

    images_per_class: int = 400
    test_fraction: float = 0.25
    image_size: int = 224
    num_folds: int = 5
    num_epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 0.003
    weight_decay: float = 0.01
    seed: int = 0

    @property
    def patience(self) -> int:
        return self.num_epochs

    @property
    def candidate(self) -> dict[str, Any]:
        return {
            "freeze_backbone": True,
            "train_from": "head",
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
        }


MAIN = Workload()  # four classes: 1,200 images to train on, 400 to test
# The naive loop as a whole takes minutes at 224 pixels: this one is small enough to run it.
CHECK = Workload(images_per_class=25, image_size=96)


@dataclass(frozen=True)
class Passes:
    """Images that go through the whole frozen network."""

    training: int
    validation: int
    test: int

    @property
    def total(self) -> int:
        return self.training + self.validation + self.test


def naive_passes(
    num_train: int, num_test: int, workload: Workload, final_epochs: int | None = None
) -> Passes:
    """Count what the naive loop takes if no fold stops early.

    Every fold's epoch trains on its N·(K−1)/K images and validates on the other N/K; the final fit
    takes `final_epochs` (the mean of the folds' best, E at the most) over all N. With E of them,
    that is E·N·(K+1)+T.
    """
    epochs, folds = workload.num_epochs, workload.num_folds
    final = epochs if final_epochs is None else final_epochs
    return Passes(
        training=epochs * num_train * (folds - 1) + final * num_train,
        validation=epochs * num_train,
        test=num_test,
    )


def pipeline_passes(num_train: int, num_test: int) -> int:
    """Count what the pipeline takes: each image once, N+T."""
    return num_train + num_test
