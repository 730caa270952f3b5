"""Find the preprocessing that a network carries, unless params.yaml gives another."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from crossfold.architectures import TIMM, timm_name
from crossfold.errors import UserError
from crossfold.imaging.picture import FILTERS
from crossfold.imaging.preprocessing import REDUCING_GAP, Preprocessing
from crossfold.settings import PreprocessingSettings

from .weights_file import read_config

_Channels = tuple[float, float, float]


class _Pretrained(BaseModel):
    input_size: tuple[Literal[3], int, int]
    mean: _Channels
    std: _Channels
    interpolation: str
    crop_pct: float


class _Config(BaseModel):
    """The part of timm's config.json that says how images are preprocessed."""

    architecture: str
    pretrained_cfg: _Pretrained


def find_preprocessing(
    architecture: str, weights: Path | None, changes: PreprocessingSettings
) -> Preprocessing:
    """Find a network's preprocessing, and apply the changes of params.yaml to it.

    A folder of timm's states it for its weights. Otherwise it is that of the architecture's
    published weights, but without their crop; see docs/decisions/036-preprocessing.md.

    Raises:
        UserError: the folder is of another architecture, or its config.json is not timm's; or the
            interpolation is not among FILTERS.
    """
    text = read_config(weights) if weights else None
    own = _stated(text, architecture) if text else published_preprocessing(architecture)
    found = replace(own, reducing_gap=REDUCING_GAP, **changes.given())
    if found.interpolation not in FILTERS:
        raise UserError(
            f"the weights' config.json has the interpolation {found.interpolation!r}: set "
            f"model.interpolation in params.yaml to {' or '.join(FILTERS)}"
        )
    return found


def _stated(text: str, architecture: str) -> Preprocessing:
    try:
        config = _Config.model_validate_json(text)
    except ValidationError as error:
        places = ", ".join(".".join(map(str, one["loc"])) or "the file" for one in error.errors())
        raise UserError(
            f"params.yaml model.weights: config.json of the folder is not as timm writes it: "
            f"{places} is missing or has another form. Set model.weights to model.safetensors in "
            "the folder, to use it without its config"
        ) from None
    if config.architecture != timm_name(architecture):
        raise UserError(
            f"params.yaml model.weights: the folder's weights are those of "
            f"{TIMM}{config.architecture}, not {architecture}. Set model.architecture to "
            f"{TIMM}{config.architecture}"
        )
    stated = config.pretrained_cfg
    return Preprocessing(
        stated.input_size[-1], stated.mean, stated.std, stated.interpolation, stated.crop_pct
    )


def published_preprocessing(architecture: str) -> Preprocessing:
    """Look up the preprocessing of an architecture's published weights, except their crop."""
    if name := timm_name(architecture):
        from crossfold.network import timm_networks

        return timm_networks.preprocessing(name)
    import torchvision  # not above: `network.backbone` imports it faster

    transforms = torchvision.models.get_model_weights(architecture).DEFAULT.transforms()
    (image_size,) = transforms.crop_size
    return Preprocessing(
        image_size,
        tuple(transforms.mean),
        tuple(transforms.std),
        transforms.interpolation.value,
    )
