"""Show where in an image a network found its evidence for a class.

Grad-CAM (Selvaraju et al., 2017, arXiv:1610.02391) on the network's last feature map. If global
average pooling and a linear head follow that map, as in a ResNet, this is the class activation map
(Zhou et al., 2016, arXiv:1512.04150) up to a positive factor, and exact: before the cut at zero,
the values sum up to the class's logit without its bias. See docs/decisions/038-explanations.md.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from crossfold.errors import UserError

from .normalization import normalize
from .trained_network import Network

MIN_SIDE = 4  # positions; a coarser map says little about where

Maps = np.ndarray[tuple[int, int, int], np.dtype[np.float32]]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class NoFeatureMapError(UserError):
    """The network's last layers don't tell positions apart."""


class ClassActivation:
    """Computes class activation maps of a trained network."""

    def __init__(self, network: Network) -> None:
        """Find the network's last feature map.

        Raises:
            NoFeatureMapError: it has none, such as a vision transformer, whose last layers have
                tokens; or it has fewer than MIN_SIDE x MIN_SIDE positions, as in a ResNet on
                images of 32 pixels.
        """
        self._network = network
        network.traced.requires_grad_(False)  # the gradients of the weights are not needed
        side = network.preprocessing.image_size
        black = np.zeros((1, side, side, 3), np.uint8)
        node = _last_feature_map(network.traced, self._input(black))
        if node is None:
            raise NoFeatureMapError(
                f"{network.architecture} gives no class activation maps for images of "
                f"{side} pixels: its last layers have no feature map of at least "
                f"{MIN_SIDE} x {MIN_SIDE} positions. Larger images may have one"
            )
        self._node = node

    def maps(self, pixels: Pixels, classes: Sequence[int]) -> Maps:
        """Compute a map for each image and its class, an index into the network's classes.

        Args:
            pixels: uint8 [N, S, S, 3], S = the side that the network takes.
            classes: [N].

        Returns:
            float32 [N, h, w]: 1 where the evidence for the class is strongest in this image, 0
            where there is none or it speaks against the class.
        """
        run = _Run(self._network.traced, self._node)
        logits = run.run(self._input(pixels))
        # An image's logits depend on no other image, so one backward pass serves all.
        logits[range(len(pixels)), list(classes)].sum().backward()
        evidence = _grad_cam(run.features).numpy()
        highest = evidence.max(axis=(1, 2), keepdims=True)
        maps: Maps = np.divide(evidence, highest, out=np.zeros_like(evidence), where=highest > 0)
        return maps

    def _input(self, pixels: Pixels) -> Tensor:
        return normalize(torch.tensor(pixels), self._network.preprocessing)


def _grad_cam(features: Tensor) -> Tensor:
    """Weight each channel by its mean gradient; float32 [N, h, w], cut at zero."""
    assert features.grad is not None
    rows, columns, channels = (2, 3, 1) if _has_channels_first(features.shape) else (1, 2, 3)
    weights = features.grad.mean((rows, columns), keepdim=True)
    return (weights * features.detach()).sum(channels).relu()


class _Run(fx.Interpreter):
    """Computes a network, with gradients from one value on: before it, they would cost for nothing.

    Attributes:
        features: that value, after the run.
    """

    def __init__(self, graph: fx.GraphModule, node: fx.Node) -> None:
        super().__init__(graph)
        self._node = node

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        if node is self._node:
            value = self.features = value.detach().requires_grad_()
        return value


class _Shapes(fx.Interpreter):
    """Records the shape of each value that is one tensor."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.shapes: dict[fx.Node, torch.Size] = {}

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        if isinstance(value, Tensor):
            self.shapes[node] = value.shape
        return value


def _last_feature_map(graph: fx.GraphModule, images: Tensor) -> fx.Node | None:
    """Find the last feature map that the whole prediction is computed from, if it is fine enough.

    A map of an earlier layer is no substitute: what follows it may mix the positions.
    """
    run = _Shapes(graph)
    with torch.no_grad():
        run.run(images)
    last, smallest = None, images.shape[-1]
    for node in _bottlenecks(graph):
        shape = run.shapes.get(node, torch.Size())
        if len(shape) == 3:
            last = None  # tokens: a feature map before them is only the beginning
        # A map that was enlarged, as by VGG's pooling, has no more positions than before.
        elif _is_feature_map(shape) and shape[2] <= smallest:
            smallest = shape[2]
            last = node if smallest > 1 else last  # one position: pooled
    return last if last and run.shapes[last][2] >= MIN_SIDE else None


def _bottlenecks(graph: fx.GraphModule) -> list[fx.Node]:
    """List the values that everything after them is computed from, and nothing else before them."""
    nodes = list(graph.graph.nodes)
    position = {node: n for n, node in enumerate(nodes)}
    found, needed_until = [], 0
    for n, node in enumerate(nodes):
        if needed_until <= n:  # no earlier value is needed after this node
            found.append(node)
        needed_until = max([needed_until, *(position[user] for user in node.users)])
    return found


def _is_feature_map(shape: torch.Size) -> bool:
    """Tell [N, C, H, W] and [N, H, W, C] from other values: images are square, and so H = W."""
    return len(shape) == 4 and (_has_channels_first(shape) or shape[1] == shape[2])


def _has_channels_first(shape: torch.Size) -> bool:
    """Tell [N, C, H, W] from [N, H, W, C], which Swin Transformers have."""
    return shape[2] == shape[3]
