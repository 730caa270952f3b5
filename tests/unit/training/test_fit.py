import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crossfold.training.fit import fit
from crossfold.training.loop import DivergedError
from crossfold.training.recipe import Recipe

from .recipes import PARTIAL, fit_settings, rows_of


class Diverging(nn.Linear):
    """A layer whose logits are no numbers from an epoch on."""

    def __init__(self, divergent: int) -> None:
        super().__init__(3, 2)
        self.divergent, self.epochs = divergent, 0

    def train(self, mode: bool = True) -> "Diverging":
        self.epochs += mode
        return super().train(mode)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * (torch.nan if self.epochs >= self.divergent else 1)


@pytest.mark.parametrize("divergent", [1, 3])
@pytest.mark.parametrize("validated", [True, False])
def test_a_fit_that_diverges_says_in_which_epoch(divergent: int, validated: bool) -> None:
    rows = rows_of(np.ones((40, 3)), np.arange(40) % 2)
    recipe = Recipe(PARTIAL, fit_settings(num_epochs=4, batch_size=10))
    with pytest.raises(DivergedError) as caught:
        fit(Diverging(divergent), rows, rows if validated else None, recipe, lambda share: None)
    assert caught.value.epoch == divergent
