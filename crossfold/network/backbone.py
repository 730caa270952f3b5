"""Build classification networks of torchvision and timm."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import nn

from crossfold.architectures import ARCHITECTURES, timm_name
from crossfold.errors import UserError, suggestion

from .cutting import head_name


@contextmanager
def _compiler_left_out() -> Iterator[None]:
    """Import torchvision without torch's compiler, which takes over a second.

    torchvision.ops imports it for one function, which only detection networks call.
    """
    name = "torch._dynamo.utils"
    if name in sys.modules:
        yield
        return
    stand_in = ModuleType(name)
    stand_in.__dict__["is_compile_supported"] = lambda device: False
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]


with _compiler_left_out():
    import torchvision


def build_network(architecture: str, num_classes: int, seed: int) -> nn.Module:
    """Build a network of torchvision or timm for `num_classes`, with weights drawn from `seed`.

    Raises:
        UserError: neither library has a network of that name.
    """
    torch.manual_seed(seed)
    if name := timm_name(architecture):
        from . import timm_networks

        return _with_bias(timm_networks.build(name, num_classes)).eval()
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"params.yaml model.architecture: torchvision has no classification network "
            f"{architecture!r}; {suggestion(architecture, ARCHITECTURES)}"
        )
    network: nn.Module = torchvision.models.get_model(
        architecture, weights=None, num_classes=num_classes, **_fixed_size(architecture)
    )
    return _with_bias(network).eval()


def _fixed_size(architecture: str) -> dict[str, int]:
    """Give a vision transformer its published weights' size: torchvision builds each for 224."""
    if not architecture.startswith("vit_"):
        return {}
    weights = torchvision.models.get_model_weights(architecture).DEFAULT
    return {"image_size": weights.meta["min_size"][0]}


def _with_bias(network: nn.Module) -> nn.Module:
    """Give the classifier a bias, starting at 0, if it has none, as MaxViT's: a head fits one."""
    head = network.get_submodule(head_name(network))
    if head.bias is None:
        head.bias = nn.Parameter(torch.zeros(len(head.weight)))
    return network
