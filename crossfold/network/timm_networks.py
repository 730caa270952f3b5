"""Build networks of timm, and tell torch.fx which of their parts to leave whole.

timm takes seconds to import, so other modules import this one only for such a network.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import timm
from timm.models import PretrainedCfg, get_notrace_functions, get_notrace_modules
from torch import nn

from crossfold.errors import UserError, suggestion
from crossfold.imaging.preprocessing import Preprocessing

# timm states no types for these.
_notrace_modules: Callable[[], Iterable[type[nn.Module]]] = get_notrace_modules
_notrace_functions: Callable[[], Iterable[Callable[..., Any]]] = get_notrace_functions


def build(name: str, num_classes: int) -> nn.Module:
    """Build a network by its name in timm, such as "convnextv2_nano", with random weights.

    Raises:
        UserError: timm has no network of that name.
    """
    require(name)
    # Exportable: the plain form of layers that timm otherwise computes by its own code.
    network: nn.Module = timm.create_model(
        name, pretrained=False, num_classes=num_classes, exportable=True
    )
    return network


def require(name: str) -> None:
    """Raise UserError if timm has no network of that name."""
    names = timm.list_models()
    if name not in names:
        raise UserError(
            f"params.yaml model.architecture: timm has no network {name!r}; "
            f"{suggestion(name, names)}"
        )


def preprocessing(name: str) -> Preprocessing:
    """Look up the preprocessing of a network's published weights, except their crop."""
    require(name)
    config = published(name)
    return Preprocessing(config.input_size[-1], config.mean, config.std, config.interpolation)


def published(name: str) -> PretrainedCfg:
    """Look up how a network's published weights were trained, and where they are."""
    config = timm.get_pretrained_cfg(name)
    assert config is not None, name  # every network of timm has one
    return config


def whole_modules() -> tuple[type[nn.Module], ...]:
    """List the modules whose code depends on shapes, so that a trace must call them whole."""
    return tuple(_notrace_modules())


def whole_functions() -> Sequence[Callable[..., Any]]:
    """List the functions whose code depends on shapes, so that a trace must call them whole."""
    return tuple(_notrace_functions())
