"""Check before a run that architecture, weights, cuts and image size fit each other."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from crossfold.errors import UserError
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network import cutting
from crossfold.network.backbone import build_network
from crossfold.network.normalization import normalize
from crossfold.records import CheckedNetwork
from crossfold.settings import HEAD, PIXELS, Backbone
from crossfold.weights.preprocessing import find_preprocessing
from crossfold.weights.pretrained_network import pretrained_tensors
from crossfold.weights.weights_file import read_weights


def check_network(backbone: Backbone, weights: Path | None, cuts: Sequence[str]) -> CheckedNetwork:
    """Refuse every network that `extract_features` would refuse, without computing anything.

    Args:
        backbone: the backbone's settings.
        weights: the weights file; None if it is not on this machine.
        cuts: where training begins.

    Raises:
        UserError: architecture, weights, cuts and image size do not fit each other.
    """
    network = _shapes(backbone.architecture)
    with torch.device("meta"):
        how = find_preprocessing(backbone.architecture, weights, backbone)
        try_image_size(network, backbone.architecture, how)
    # The head always, because each network is exported cut there.
    stages = [HEAD, *(cut for cut in cuts if cut != PIXELS)]
    prefix = cutting.prefix(cutting.trace(network), stages)
    with torch.device("meta"), torch.inference_mode():
        values = dict(zip(stages, prefix(_black_image(how)), strict=True))
    wanted = pretrained_tensors(network)
    source = read_weights(weights, backbone.architecture, wanted).source if weights else ""
    return CheckedNetwork(
        source=source,
        preprocessing=how,
        num_bytes_stored=sum(values[cut].nbytes for cut in cuts if cut != PIXELS),
    )


def _shapes(architecture: str) -> nn.Module:
    """Build a network of shapes without values, which computes in no time."""
    try:
        with torch.device("meta"):
            return build_network(architecture, num_classes=2, seed=0)
    except NotImplementedError:  # RegNets compute their widths by tensors
        return build_network(architecture, num_classes=2, seed=0).to("meta")


def try_image_size(network: nn.Module, architecture: str, how: Preprocessing) -> None:
    """Raise UserError if the network cannot take images of this size; tries a black one."""
    try:
        with torch.inference_mode():
            network(_black_image(how))
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"params.yaml model.image_size: {architecture} cannot take images of {how.image_size} "
            f"pixels: {error}"
        ) from None


def _black_image(how: Preprocessing) -> torch.Tensor:
    black = torch.zeros((1, how.image_size, how.image_size, 3), dtype=torch.uint8)
    return normalize(black, how)
