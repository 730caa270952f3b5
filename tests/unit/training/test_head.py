import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from crossfold.records import ClassWeights
from crossfold.training import head
from crossfold.training.class_weights import class_weights
from crossfold.training.feature_rows import FeatureRows

from .recipes import rows_of


def problem(num_images: int = 60) -> FeatureRows:
    """Three classes on correlated features of unequal scale, far from 0; not separable."""
    draw = np.random.default_rng(0)
    labels = np.arange(num_images) % 3
    values = draw.normal(size=(num_images, 5)) @ draw.normal(size=(5, 5))
    values[:, :3] += np.eye(3)[labels]
    return rows_of(values * [1, 10, 0.5, 1, 3] + [100, -20, 3, 0, 1], labels)


def trained(
    rows: FeatureRows,
    weight_decay: float,
    seed: int = 0,
    suffix: nn.Module | None = None,
    weighting: ClassWeights = ClassWeights.NONE,
) -> nn.Module:
    torch.manual_seed(seed)
    suffix = suffix or nn.Sequential(nn.Linear(rows.features.shape[1], 3))
    head.fit_head(suffix, rows, weight_decay, lambda share: None, weighting)
    return suffix


@pytest.mark.parametrize("weight_decay", [1.0, 0.01, 0.001])
def test_a_head_is_the_logistic_regression_that_scikit_learn_finds(weight_decay: float) -> None:
    rows = problem()
    found = trained(rows, weight_decay)(torch.from_numpy(rows.features)).softmax(1)
    scaled = (rows.features - rows.features.mean(0)) / rows.features.std(0)
    wanted = LogisticRegression(C=1 / (weight_decay * len(scaled)), tol=1e-8, max_iter=10_000)
    wanted.fit(scaled, rows.labels)
    np.testing.assert_allclose(found.detach(), wanted.predict_proba(scaled), atol=2e-4)
    assert found.std() > 0.05


def unequal_rows() -> FeatureRows:
    """All images of the first class, a quarter of the second, a tenth of the third."""
    rows = problem(120)
    kept = [n for n in range(120) if n // 3 % (1, 4, 10)[n % 3] == 0]
    return rows_of(rows.features[kept], rows.labels[kept])


def test_a_balanced_head_is_the_one_that_scikit_learn_finds() -> None:
    rows = unequal_rows()
    suffix = trained(rows, 0.01, weighting=ClassWeights.BALANCED)
    found = suffix(torch.from_numpy(rows.features)).softmax(1).detach().numpy()
    scaled = (rows.features - rows.features.mean(0)) / rows.features.std(0)
    wanted = LogisticRegression(
        C=1 / (0.01 * len(scaled)), tol=1e-8, max_iter=10_000, class_weight="balanced"
    ).fit(scaled, rows.labels)
    np.testing.assert_allclose(found, wanted.predict_proba(scaled), atol=2e-4)
    plain = trained(rows, 0.01)(torch.from_numpy(rows.features)).softmax(1).detach().numpy()
    assert found[:, 2].mean() > 2 * plain[:, 2].mean()


def test_the_weighted_correlation_bounds_the_curvature_of_the_weighted_loss() -> None:
    """At two classes, Böhning's bound is the factor of fit_head: no curvature is above 1."""
    rows = problem(60)
    labels = (np.arange(60) % 12 == 0).astype(np.int64)
    weights = class_weights(labels, 2, ClassWeights.BALANCED)
    assert weights is not None
    weighted = FeatureRows(rows.features, labels, rows.rows)
    moments = head.Moments.of(weighted, torch.from_numpy(weights))
    expected = np.cov(rows.features.T.astype(np.float64), aweights=weights[labels], ddof=0)
    std = rows.features.astype(np.float64).std(0)
    np.testing.assert_allclose(moments.correlation, expected / std / std[:, None], rtol=1e-6)
    scaled = (torch.from_numpy(rows.features).double() - moments.mean) / moments.std
    bound = moments.correlation / 2 + 0.01 * torch.eye(5)

    def loss(weight: Tensor) -> Tensor:
        logits = scaled @ weight.T
        each = nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="none")
        of_images = torch.from_numpy(weights[labels])
        return (each * of_images).mean() + 0.01 / 2 * weight.square().sum()

    for size in (0.0, 0.3):
        weight = size * torch.from_numpy(np.random.default_rng(1).normal(size=(2, 5)))
        of_weights = torch.func.hessian(loss)(weight)
        root = torch.linalg.inv(torch.linalg.cholesky(bound))
        root = torch.eye(2, dtype=torch.float64).kron(root.contiguous())
        hessian = of_weights.reshape(10, 10)
        assert float(torch.linalg.eigvalsh(root @ hessian @ root.T).max()) <= 1 + 1e-6


def test_neither_the_initial_weights_nor_the_batches_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = problem()
    features = torch.from_numpy(rows.features)
    first = trained(rows, 0.01)(features).softmax(1)
    monkeypatch.setattr(head, "MAX_NUMBERS", 35)  # batches of 7 images
    other = trained(rows, 0.01, seed=1)(features).softmax(1)
    torch.testing.assert_close(first, other, atol=2e-4, rtol=0)
    again = trained(rows, 0.01, seed=1)(features).softmax(1)
    assert other.equal(again)


def test_a_head_on_maps_is_trained_through_what_follows_it() -> None:
    """As SqueezeNet's: a convolution of one pixel, then ReLU, then the mean over all positions."""
    draw = np.random.default_rng(0)
    labels = np.arange(60) % 3
    maps = draw.normal(size=(60, 4, 2, 3)) + 3 * np.eye(4)[labels][:, :, None, None]
    rows = rows_of(maps, labels)
    torch.manual_seed(0)
    layers = (nn.Conv2d(4, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    suffix = trained(rows, 0.001, suffix=nn.Sequential(*layers))
    predicted = suffix(torch.from_numpy(rows.features)).argmax(1)
    assert (predicted.numpy() == labels).mean() > 0.95


def test_moments_are_of_the_training_rows_alone_and_a_narrow_channel_is_widened() -> None:
    draw = np.random.default_rng(0)
    values = draw.normal(size=(40, 4)) * [2, 1, 1e-6, 0] + [0, 5, 7, 9]
    values[30:] = 1e6
    rows = FeatureRows(values.astype(np.float32), np.zeros(40, np.int64), np.arange(30))
    moments = head.Moments.of(rows)
    wanted = rows.features[:30].astype(np.float64)
    np.testing.assert_allclose(moments.mean, wanted.mean(0))
    np.testing.assert_allclose(moments.std[:2], wanted.std(0)[:2])
    floor = head.MIN_STD * wanted.std(0).mean()
    np.testing.assert_allclose(moments.std[2:], floor)
    correlation = moments.correlation[:2, :2]
    np.testing.assert_allclose(correlation, np.corrcoef(wanted[:, :2].T), atol=1e-9)


def test_constant_features_alone_are_no_division_by_zero() -> None:
    rows = rows_of(np.full((9, 2), 3.0), np.arange(9) % 3)
    (layer,) = trained(rows, 0.1).children()
    logits = layer(torch.from_numpy(rows.features))
    torch.testing.assert_close(logits.softmax(1), torch.full((9, 3), 1 / 3), atol=1e-4, rtol=0)


def test_an_image_in_which_a_nearly_constant_channel_fires_is_not_decided_by_it() -> None:
    draw = np.random.default_rng(0)
    labels = np.arange(90) % 3
    values = draw.normal(size=(90, 4)) + 3 * np.eye(4)[labels]
    values[:, 3] = 0
    values[labels == 2, 3] = 1e-4  # tells one class without a mistake, by next to nothing
    unseen = np.array([[4, 0, 0, 1]], np.float32)  # clearly of class 0
    suffix = trained(rows_of(values, labels), 0.01)
    assert suffix(torch.from_numpy(unseen)).argmax() == 0
