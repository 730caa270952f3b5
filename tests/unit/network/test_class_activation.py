import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network import cutting, normalization
from crossfold.network.class_activation import ClassActivation, NoFeatureMapError, Pixels
from crossfold.network.trained_network import Network

from .. import networks


def _network(module: nn.Module, image_size: int, architecture: str = "") -> Network:
    network = Network.__new__(Network)  # without a file
    network.architecture = architecture
    network.preprocessing = Preprocessing(image_size)
    network.traced = cutting.trace(module)
    return network


@pytest.mark.parametrize(
    ("architecture", "stage", "head"),
    [
        ("resnet18", "layer4", "fc"),
        ("mobilenet_v2", "features", "classifier.1"),
        ("timm/test_efficientnet", "bn2", "classifier"),
    ],
)
def test_a_map_is_the_class_activation_map_where_average_pooling_and_a_linear_layer_follow(
    architecture: str, stage: str, head: str
) -> None:
    module = networks.build(architecture)
    pixels = networks.pixels(3, 160)
    found: list[Tensor] = []
    module.get_submodule(stage).register_forward_hook(lambda *call: found.append(call[-1]))
    with torch.no_grad():
        logits = module(normalization.normalize(torch.tensor(pixels), Preprocessing(64)))
    linear = module.get_submodule(head)
    assert isinstance(linear, nn.Linear)
    classes = (logits - linear.bias).argmax(dim=1).tolist()
    cam = torch.einsum("nkhw,nk->nhw", found[0], linear.weight[classes]).detach()
    # Zhou et al., 2016: pooled and with the bias, it is the class's logit.
    torch.testing.assert_close(
        cam.mean((1, 2)) + linear.bias[classes], logits[range(3), classes], rtol=1e-4, atol=1e-4
    )
    positive = cam.relu().numpy()
    assert positive.any(axis=(1, 2)).all()
    expected = positive / positive.max(axis=(1, 2), keepdims=True)
    maps = ClassActivation(_network(module, 160)).maps(pixels, classes)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, atol=1e-4)


def _with_patch(count: int, seed: int) -> tuple[Pixels, list[int], list[tuple[int, int]]]:
    """Grey noise, each with a patch of 16 x 16 pixels at a random place; its colour is the class.

    Returns:
        pixels uint8 [N, 64, 64, 3], classes, and the first row and column of each patch.
    """
    generator = np.random.default_rng(seed)
    pixels = generator.integers(90, 160, (count, 64, 64, 3)).astype(np.uint8)
    classes = generator.integers(0, 3, count).tolist()
    places = [(int(row), int(column)) for row, column in generator.integers(0, 49, (count, 2))]
    for image, label, (row, column) in zip(pixels, classes, places, strict=True):
        image[row : row + 16, column : column + 16] = 30
        image[row : row + 16, column : column + 16, label] = 230
    return pixels, classes, places


def _trained() -> nn.Module:
    """A small network that tells the patches' colours."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=4),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    pixels, classes, _ = _with_patch(120, seed=1)
    images, labels = (
        normalization.normalize(torch.tensor(pixels), Preprocessing(64)),
        torch.tensor(classes),
    )
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(module(images), labels))
        optimizer.step()
    return module


def test_a_map_is_highest_on_the_patch_that_decides_the_class() -> None:
    module = _trained()
    pixels, classes, places = _with_patch(30, seed=2)
    with torch.inference_mode():
        logits = module(normalization.normalize(torch.tensor(pixels), Preprocessing(64)))
    assert logits.argmax(dim=1).tolist() == classes
    maps = ClassActivation(_network(module, 64)).maps(pixels, classes)
    assert maps.shape == (30, 8, 8)
    for found, (top, left) in zip(maps, places, strict=True):
        row, column = np.unravel_index(found.argmax(), found.shape)
        # A position has 8 x 8 pixels; it overlaps the patch.
        assert top - 8 < 8 * row < top + 16 and left - 8 < 8 * column < left + 16


def test_a_map_depends_on_the_class_and_on_no_other_image() -> None:
    activation = ClassActivation(_network(networks.build("resnet18"), 128))
    pixels = networks.pixels(2, 128)
    together = activation.maps(pixels, [0, 1])
    np.testing.assert_allclose(activation.maps(pixels[1:], [1]), together[1:], atol=1e-4)
    assert np.abs(activation.maps(pixels[1:], [2]) - together[1:]).max() > 0.1


@pytest.mark.parametrize(
    ("architecture", "image_size", "shape"),
    [
        ("vgg11", 128, (4, 4)),  # its pooling would enlarge these to seven by seven
        ("squeezenet1_1", 96, (5, 5)),  # no linear layer
        ("densenet121", 128, (4, 4)),
        ("convnext_tiny", 128, (4, 4)),
        ("swin_t", 128, (4, 4)),
        ("timm/swin_tiny_patch4_window7_224", 224, (7, 7)),  # channels last
        ("maxvit_t", 224, (7, 7)),
    ],
)
def test_other_networks_give_a_map_too(
    architecture: str, image_size: int, shape: tuple[int, int]
) -> None:
    network = _network(networks.build(architecture), image_size)
    (found,) = ClassActivation(network).maps(networks.pixels(1, image_size), [0])
    assert found.shape == shape
    assert found.min() >= 0 and found.max() in (0, 1)


@pytest.mark.parametrize(
    ("architecture", "image_size"),
    [
        ("vit_b_32", 224),  # tokens
        ("timm/mixer_s32_224", 224),
        ("resnet18", 32),  # one position
        ("resnet18", 96),  # three by three
        ("vgg11", 32),  # its pooling enlarges one position to seven by seven
    ],
)
def test_a_network_without_a_feature_map_says_so(architecture: str, image_size: int) -> None:
    network = _network(networks.build(architecture), image_size, architecture)
    with pytest.raises(NoFeatureMapError, match=f"{architecture} .* {image_size} pixels"):
        ClassActivation(network)
