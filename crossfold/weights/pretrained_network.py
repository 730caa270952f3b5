"""Load pretrained weights into a network with a new classifier."""

import logging
from pathlib import Path

from torch import Tensor, nn

from crossfold.network.backbone import build_network
from crossfold.network.cutting import head_name, trace

from .weights_file import read_weights

_logger = logging.getLogger(__name__)


def pretrained_network(architecture: str, path: Path, num_classes: int, seed: int) -> nn.Module:
    """Build the network with a file's weights, and a new classifier from `seed`.

    Raises:
        UserError: the architecture is unknown, or the weights cannot be read or do not fit it.
    """
    network = build_network(architecture, num_classes, seed)
    weights = read_weights(path, architecture, pretrained_tensors(network))
    if weights.source:
        _logger.info("model.weights: taken from %s", weights.source)
    network.load_state_dict(weights.tensors, strict=False)
    return network


def pretrained_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Select the tensors that a weights file must contain: all except the classifier's."""
    head = f"{head_name(network)}."
    # The trace leaves out unused layers, such as auxiliary classifiers.
    used = trace(network).state_dict()
    return {
        name: tensor
        for name, tensor in network.state_dict().items()
        if name in used and not name.startswith(head) and not name.endswith("num_batches_tracked")
    }
