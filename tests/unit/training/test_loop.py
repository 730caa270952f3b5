import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crossfold.records import ClassWeights
from crossfold.training.feature_rows import FeatureRows
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


def test_an_epoch_has_each_image_once_in_a_view_drawn_by_seed_and_epoch() -> None:
    values = np.arange(96, dtype=np.float32).reshape(32, 3, 1)
    rows = FeatureRows.of_images(values, np.zeros(32, np.int64), np.arange(32))
    seen = []

    class Noting(nn.Linear):
        def forward(self, features: Tensor) -> Tensor:
            seen.append(sorted(features.flatten().int().tolist()))
            return super().forward(features)

    model = Noting(1, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0)
    for seed, epoch in ((0, 1), (0, 2), (1, 1), (0, 1)):
        recipe = Recipe(PARTIAL, fit_settings(batch_size=32, seed=seed))
        train_one_epoch(model, optimizer, rows, recipe, epoch)
    assert all([row // 3 for row in epoch] == list(range(32)) for epoch in seen)
    assert len({tuple(row % 3 for row in epoch) for epoch in seen}) == 3 and seen[0] == seen[3]


@pytest.mark.parametrize("size", [40, 10])
def test_balanced_classes_pull_equally_in_an_epoch_however_few_images_one_has(size: int) -> None:
    """At equal probabilities, the gradients of an epoch's batches by the bias cancel out."""
    labels = np.repeat([0, 1, 2], [30, 8, 2])
    rows = rows_of(np.zeros((40, 4)), labels)
    for kind, moved in ((ClassWeights.BALANCED, False), (ClassWeights.NONE, True)):
        model = nn.Linear(4, 3)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        recipe = Recipe(PARTIAL, fit_settings(batch_size=size, class_weights=kind))
        train_one_epoch(model, optimizer, rows, recipe, 1)
        assert (float(model.bias.detach().abs().max()) > 1e-6) is moved


@pytest.mark.parametrize("test_time", [False, True])
def test_validation_averages_over_the_views_if_told_to(test_time: bool) -> None:
    values = np.random.default_rng(0).normal(size=(5, 2, 4)).astype(np.float32)
    rows = FeatureRows.of_images(values, np.zeros(5, np.int64), np.array([3, 1]))
    recipe = Recipe(PARTIAL, fit_settings(views=("mirrored",), test_time=test_time))
    model = nn.Linear(4, 3)
    with torch.no_grad():
        of_views = model(torch.from_numpy(values[[3, 1]])).softmax(dim=2).numpy()
    wanted = of_views.mean(axis=1) if test_time else of_views[:, 0]
    np.testing.assert_allclose(evaluate(model, rows, recipe), wanted, atol=1e-6)


def test_dropout_is_on_in_training_and_off_in_validation() -> None:
    rows = rows_of(np.ones((64, 8)), np.zeros(64))
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0)
    with torch.no_grad():
        certain = model.eval()(torch.ones(1, 8)).softmax(1)
    recipe = Recipe(PARTIAL, fit_settings(batch_size=16))
    predicted = evaluate(model, rows, recipe)
    np.testing.assert_allclose(predicted, certain.repeat(64, 1), atol=1e-6)
    first, same, other = (
        train_one_epoch(model, optimizer, rows, recipe, epoch)["loss"] for epoch in (1, 1, 2)
    )
    assert first == same != other
    assert first != pytest.approx(-certain.log()[0, 0].item(), rel=1e-6)
