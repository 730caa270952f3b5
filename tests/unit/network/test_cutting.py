from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from crossfold.errors import UserError
from crossfold.network import cutting, normalization
from crossfold.settings import Candidate
from crossfold.training.feature_rows import FeatureRows
from crossfold.training.fit import fit, trainable_suffix
from crossfold.training.recipe import FitSettings, Recipe
from tests.unit.networks import IMAGENET, build, pixels, state


@pytest.mark.parametrize(
    ("architecture", "size", "stages"),
    [
        ("resnet18", 40, ["layer4", "layer2.1"]),
        ("vgg11", 32, ["classifier", "features.16"]),
        ("densenet121", 40, ["features.denseblock4", "features.transition2"]),
        ("mobilenet_v3_small", 40, ["features.9", "classifier"]),
        ("shufflenet_v2_x0_5", 40, ["conv5", "stage4", "stage3.2"]),
        ("squeezenet1_1", 40, ["features.12", "classifier"]),
        ("efficientnet_b0", 40, ["features.6"]),
        ("convnext_tiny", 40, ["features.7", "features.7.1"]),
        ("swin_t", 64, ["features.7"]),
        ("swin_v2_t", 64, ["features.5"]),
    ],
)
def test_prefix_and_suffix_are_the_network(architecture: str, size: int, stages: list[str]) -> None:
    network = build(architecture)
    traced = cutting.trace(network)
    images = torch.from_numpy(pixels(2, size))
    cuts = ["head", *stages]
    with torch.inference_mode():
        wanted = network(normalization.normalize(images, IMAGENET))
        values = cutting.prefix(traced, cuts)(normalization.normalize(images, IMAGENET))
        for cut, value in zip(cuts, values, strict=True):
            assert torch.equal(cutting.suffix(traced, cut)(value), wanted), cut


def test_training_from_a_stage_has_all_its_weights() -> None:
    """Those beside its layers, too, as ConvNeXt's layer scales are."""
    network = build("convnext_tiny")
    suffix = cutting.suffix(cutting.trace(network), "features.7")
    wanted = {
        name
        for name, _ in network.named_parameters()
        if name.startswith(("features.7.", "classifier."))
    }
    assert any(name.endswith("layer_scale") for name in wanted)
    assert {name for name, _ in suffix.named_parameters()} == wanted


@pytest.mark.parametrize(
    ("train_from", "moving"),
    [("head", ("fc.",)), ("conv5", ("fc.", "conv5.")), ("pixels", ("",))],
)
def test_training_moves_the_suffix_and_nothing_before_it(
    train_from: str, moving: tuple[str, ...]
) -> None:
    network = build("shufflenet_v2_x0_5")
    images = pixels(12, 32)
    values: Any = images
    if train_from != "pixels":
        prefix = cutting.prefix(cutting.trace(network), [train_from])
        with torch.inference_mode():
            values = prefix(normalization.normalize(torch.from_numpy(images), IMAGENET))[0].numpy()
    candidate = Candidate(
        freeze_backbone=train_from == "head",
        train_from=train_from,
        learning_rate=None if train_from == "head" else 0.01,
        weight_decay=0.01,
    )
    rows = FeatureRows(values, np.arange(12) % 3, np.arange(12))
    before = state(network)
    settings = FitSettings(
        num_epochs=1,
        batch_size=6,
        seed=1,
        precision="float32",
    )
    recipe = Recipe(candidate, settings)
    suffix = trainable_suffix(network, recipe, IMAGENET)
    fit(suffix, rows, None, recipe, lambda share: None)
    after = state(network)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith(moving)}
    assert any("running_mean" in name for name in moved) == (train_from != "head")


def test_values_that_cannot_be_cut_are_refused_with_a_way_out() -> None:
    traced = cutting.trace(build("shufflenet_v2_x0_5"))
    with pytest.raises(UserError, match=r"stage2\.1\.branch2: .* 2 "):
        cutting.suffix(traced, "stage2.1.branch2")


@pytest.mark.parametrize("cut", ["layer5", "layer", "layer4.9", ""])
def test_an_unknown_stage_is_refused_with_those_there_are(cut: str) -> None:
    traced = cutting.trace(build("resnet18"))
    parts: tuple[Callable[[], Any], ...] = (
        lambda: cutting.suffix(traced, cut),
        lambda: cutting.prefix(traced, [cut]),
    )
    for part in parts:
        with pytest.raises(UserError, match=f"train_from: {cut}: ") as caught:
            part()
        assert all(name in str(caught.value) for name in ("conv1", "layer1", "layer4", "fc"))
