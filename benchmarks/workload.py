"""What is computed, on both sides alike."""

from dataclasses import dataclass
from typing import Any

ARCHITECTURE = "resnet18"
CUT = "fc"  # the last layer: as little training as can be that still takes epochs


@dataclass(frozen=True)
class Workload:
    """A cross-validation of one candidate, a final fit and a test; `image_size` in pixels.

    The last layer is trained by epochs, on both sides. A head, which is trained to convergence,
    would take the naive loop a hundred passes and more.
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
    def candidate(self) -> dict[str, Any]:
        return {
            "freeze_backbone": False,
            "train_from": CUT,
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


def naive_passes(num_train: int, num_test: int, workload: Workload) -> Passes:
    """Count what the naive loop takes: E·N·(K+1)+T.

    Every fold's epoch trains on its N·(K−1)/K images and validates on the other N/K; the final
    fit's trains on all N.
    """
    epochs, folds = workload.num_epochs, workload.num_folds
    return Passes(
        training=epochs * num_train * folds,
        validation=epochs * num_train,
        test=num_test,
    )


def pipeline_passes(num_train: int, num_test: int) -> int:
    """Count what the pipeline takes: each image once, N+T."""
    return num_train + num_test
