"""One small network of every family of torchvision and timm: cut at its head, joined, exported."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from crossfold.architectures import ARCHITECTURES
from crossfold.errors import UserError
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network import backbone, cutting, normalization, openvino_engine
from crossfold.settings import PreprocessingSettings
from crossfold.weights.preprocessing import find_preprocessing
from tests.unit.networks import pixels


def listed(names: str) -> list[str]:
    return names.split()


# The smallest network of each family; timm's families are its modules.
TORCHVISION = listed("""
alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 maxvit_t mnasnet0_5
mobilenet_v2 mobilenet_v3_small regnet_x_400mf resnet18 shufflenet_v2_x0_5 squeezenet1_1 swin_t
vgg11 vit_b_32
""")
TIMM = listed("""
halonet_h1 test_byobnet cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32 test_convnext
cpubone_nano csatv2 cs3darknet_focus_s cspnext_tiny davit_tiny deit_tiny_patch16_224 densenet121
dla46x_c dpn48b edgenext_xx_small test_efficientnet efficientvit_b0 efficientvit_m0
eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny ghostnet_050
hardcorenas_b hgnetv2_b0 hiera_tiny_224 hieradet_small hrnet_w18_small iformer_t
inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small lowformer_b0
test_mambaout test_coatnet poolformerv2_s12 gmlp_ti16_224 lcnet_035 mobilevit_xxs mvitv2_tiny
nest_tiny nextvit_small test_nfnet pit_ti_224 pvt_v2_b0 rdnet_tiny regnetx_002 repghostnet_050
res2next50 resnest14d test_resnet resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18
sequencer2d_s shvit_s1 skresnet18 starnet_s050 swin_tiny_patch4_window7_224
swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m
twins_svt_small vgg11 visformer_tiny test_vit vit_tiny_r_s16_p8_224 test_vit_relpos
vitamin_small_224 ese_vovnet19b_slim_dw legacy_xception xception41p
xcit_nano_12_p8_224
""")
# Even these have more than 60 million weights, so that the test only cuts them.
LARGE = listed("""
beit_base_patch16_224 deepseek_vit_412m mobilenetv5_base
naflexvit_base_patch16_parfac_gap nasnetalarge pnasnet5large qwen3_vit_88m samvit_base_patch16_224
""")
# They average several classifiers, or cannot be traced. docs/own-weights.md lists them.
REFUSED = listed("""
crossvit_tiny_240 efficientformer_l1 efficientformerv2_s0 efficientvim_m1 levit_128s repvit_m1
swiftformer_xs volo_d1_224 gemma4_vit_167m_enc
""")
QUICK = ("mobilenet_v3_small", "timm/test_vit", "timm/test_convnext")
OWN_WEIGHTS = Path(__file__).parents[3] / "docs" / "own-weights.md"


def every(names: list[str], prefix: str = "") -> list[Any]:
    """Parameters for a test, slow except the quick ones."""
    return [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in (prefix + name for name in names)
    ]


def smallest_input(
    network: nn.Module, architecture: str
) -> tuple[Preprocessing, torch.Tensor, torch.Tensor]:
    """Preprocessing for the smallest images that the network takes, two images, and its logits."""
    own = find_preprocessing(architecture, None, PreprocessingSettings())
    for size in (64, 128, 192, own.image_size):
        how = replace(own, image_size=size)
        images = torch.from_numpy(pixels(2, size))
        try:
            return how, images, network(normalization.normalize(images, how))
        except (RuntimeError, AssertionError):
            continue
    raise AssertionError("it refuses its published image size")


@pytest.mark.parametrize("architecture", every(TORCHVISION) + every(TIMM, "timm/"))
def test_a_network_cut_at_its_head_joined_and_exported_is_the_whole(architecture: str) -> None:
    network = backbone.build_network(architecture, 3, seed=0)
    traced = cutting.trace(network)
    prefix = cutting.prefix(traced, ["head"])
    with torch.inference_mode():
        how, images, logits = smallest_input(network, architecture)
        suffix = cutting.suffix(traced, "head")
        (features,) = prefix(normalization.normalize(images, how))
        assert torch.equal(suffix(features), logits)

    # `fit_head` trains one layer.
    head = suffix.get_submodule(cutting.head_name(suffix))
    assert isinstance(head, nn.Linear | nn.Conv2d) and head.bias is not None
    assert [*suffix.parameters()] == [*head.parameters()]

    graph = openvino_engine.from_torch(normalization.from_pixels(prefix, how), how.image_size)
    (computed,) = openvino_engine.compiled(graph, "float32", 1)(images.numpy())
    largest = float(features.abs().max())
    np.testing.assert_allclose(computed, features.numpy(), rtol=1e-3, atol=2e-3 * largest)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_a_large_network_can_be_cut_at_its_head(name: str) -> None:
    with torch.device("meta"):
        network = backbone.build_network(f"timm/{name}", 3, seed=0)
    cutting.prefix(cutting.trace(network), ["head"])


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.slow
def test_a_network_that_cannot_be_cut_at_its_head_is_refused_as_documented(name: str) -> None:
    with torch.device("meta"):
        network = backbone.build_network(f"timm/{name}", 3, seed=0)
    with pytest.raises(UserError, match=r"model\.architecture: this network"):
        cutting.prefix(cutting.trace(network), ["head"])
    assert f"`{name.partition('_')[0]}" in OWN_WEIGHTS.read_text()


def test_every_family_is_tested() -> None:
    tested = {*TIMM, *LARGE, *REFUSED}
    for family in timm.list_modules():
        assert tested & set(timm.list_models(module=family)), family
    families = {module_of(name) for name in ARCHITECTURES}
    assert {module_of(name) for name in TORCHVISION} == families


def module_of(name: str) -> str:
    module: str = torchvision.models.get_model_builder(name).__module__
    return module
