import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crossfold.training.loop import evaluate, train_one_epoch
from crossfold.training.recipe import Recipe

from .recipes import PARTIAL, fit_settings, rows_of


def test_no_two_epochs_of_any_seeds_have_the_same_order_or_dropout() -> None:
    rows = rows_of(np.arange(32)[:, None], np.zeros(32))
    drawn = []

    class Noting(nn.Linear):
        def forward(self, features: Tensor) -> Tensor:
            noise = torch.rand(3)
            drawn.append((tuple(features.flatten().tolist()), tuple(noise.tolist())))
            return super().forward(features)

    model = Noting(1, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0)
    for seed in (0, 1, 2):
        recipe = Recipe(PARTIAL, fit_settings(batch_size=32, seed=seed))
        for epoch in (1, 2, 3):
            train_one_epoch(model, optimizer, rows, recipe, epoch)
    orders, noises = zip(*drawn, strict=True)
    assert len(set(orders)) == len(set(noises)) == 9
    assert all(sorted(order) == list(range(32)) for order in orders)


def test_dropout_is_on_in_training_and_off_in_validation() -> None:
    rows = rows_of(np.ones((64, 8)), np.zeros(64))
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0)
    with torch.no_grad():
        certain = model.eval()(torch.ones(1, 8)).softmax(1)
    predicted = evaluate(model, rows, "float32")
    np.testing.assert_allclose(predicted, certain.repeat(64, 1), atol=1e-6)
    recipe = Recipe(PARTIAL, fit_settings(batch_size=16))
    first, same, other = (
        train_one_epoch(model, optimizer, rows, recipe, epoch)["loss"] for epoch in (1, 1, 2)
    )
    assert first == same != other
    assert first != pytest.approx(-certain.log()[0, 0].item(), rel=1e-6)
