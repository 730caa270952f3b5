"""Build torchvision's classification networks, load their weights, and cut them.

A network is traced once with torch.fx in evaluation mode. A cut is the one value that everything
from a stage on is computed from; before it lies the prefix, which is frozen, after it the suffix,
which is trained. Both share the network's own modules, so a trained suffix is a trained network.
"""

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, fx, nn

from crossfold.architectures import ARCHITECTURES
from crossfold.errors import UserError, suggestion
from crossfold.settings import HEAD, PIXELS
from crossfold.step.files import replaced_whole

from .checkpoint import read_weights
from .tensorfile import read_metadata

_logger = logging.getLogger(__name__)


@contextmanager
def _compiler_left_out() -> Iterator[None]:
    """Import torchvision without torch's compiler, which takes over a second.

    For one function of it, which only detection networks call, torchvision.ops asks for all of it.
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

# What torchvision's published weights were trained with
# (https://docs.pytorch.org/vision/stable/models.html).
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def normalize(pixels: Tensor) -> Tensor:
    """Turn uint8 pixels [N, S, S, 3] into the networks' input, float32 [N, 3, S, S]."""
    scaled = pixels.permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    return ((scaled - mean) / std).contiguous()


def build_network(architecture: str, num_classes: int, seed: int) -> nn.Module:
    """Build torchvision's network for `num_classes` with weights drawn from `seed`.

    Raises:
        UserError: torchvision has no classification network of that name.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"params.yaml model.architecture: torchvision has no classification network "
            f"{architecture!r}; {suggestion(architecture, ARCHITECTURES)}"
        )
    torch.manual_seed(seed)
    network: nn.Module = torchvision.models.get_model(
        architecture, weights=None, num_classes=num_classes
    )
    return network.eval()


def fetch_imagenet_weights(folder: Path) -> Path:
    """Fetch torchvision's ResNet18 ImageNet weights, through its loader, into `folder`.

    Raises:
        UserError: the weights cannot be fetched, for want of the internet or of disk.
    """
    published = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    path = folder / "resnet18-imagenet.safetensors"
    try:
        state = published.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the weights cannot be fetched from {published.url}: {error}. It needs the internet; "
            f"where there is none, fetch that file elsewhere, put it under {folder}/ and name it "
            f"in params.yaml model.weights."
        ) from None
    folder.mkdir(exist_ok=True)
    with replaced_whole(path) as part:
        safetensors.torch.save_file(state, part)
    return path


def pretrained_network(architecture: str, path: Path, num_classes: int, seed: int) -> nn.Module:
    """Build the network with a file's weights, and a new classifier from `seed`.

    Raises:
        UserError: no such architecture, or the weights cannot be read or do not fit it.
    """
    network = build_network(architecture, num_classes, seed)
    weights = read_weights(path, architecture, pretrained_tensors(network))
    if weights.source:
        _logger.info("model.weights: taken from %s", weights.source)
    network.load_state_dict(weights.tensors, strict=False)
    return network


def pretrained_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a weights file must contain: all except the classifier's."""
    head = f"{head_name(network)}."
    # The traced network has what is used; auxiliary classifiers, for one, are not.
    used = trace(network).state_dict()
    return {
        name: tensor
        for name, tensor in network.state_dict().items()
        if name in used and not name.startswith(head) and not name.endswith("num_batches_tracked")
    }


def head_name(network: nn.Module) -> str:
    """Return the name of the classifier's layer, in every network the last one."""
    layers: list[str] = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    return layers[-1]


def trace(network: nn.Module) -> fx.GraphModule:
    """Trace the network, in evaluation mode, as a graph of layers."""
    return fx.GraphModule(network, _Tracer().trace(network.eval()))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        # StochasticDepth and its like decide by `training`, which a trace would freeze.
        inside = module.__module__.startswith(("torch.nn", "torchvision.ops"))
        return inside and not isinstance(module, nn.Sequential)


def prefix(traced: fx.GraphModule, cuts: Iterable[str]) -> fx.GraphModule:
    """Build the frozen prefix: images [N, 3, S, S] in, a tuple with each cut's value out.

    Raises:
        UserError: a cut is not a stage of the network.
    """
    places = [_cut(traced, cut) for cut in cuts]
    end = max(first for first, _ in places)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in list(traced.graph.nodes)[:end]:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[value] for _, value in places))
    return fx.GraphModule(traced, graph)


def from_pixels(prefix: nn.Module) -> nn.Module:
    """Wrap the prefix to take uint8 pixels [N, S, S, 3]."""
    return nn.Sequential(_Normalize(), prefix)


def suffix(traced: fx.GraphModule, cut: str) -> nn.Module:
    """Build the suffix after a cut: the cut's value in, logits [N, K] out.

    From "pixels" on, that is the whole network and takes uint8 pixels [N, S, S, 3].

    Raises:
        UserError: the cut is not a stage of the network.
    """
    if cut == PIXELS:
        return from_pixels(traced)
    first, value = _cut(traced, cut)
    graph = fx.Graph()
    copies = {value: graph.placeholder("features")}
    for node in list(traced.graph.nodes)[first:]:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    return fx.GraphModule(traced, graph)


class _Normalize(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return normalize(pixels)


def _cut(traced: fx.GraphModule, cut: str) -> tuple[int, fx.Node]:
    """Find a stage's first position in the graph and the one value that crosses into it."""
    nodes = list(traced.graph.nodes)
    stage = head_name(traced) if cut == HEAD else cut
    inside = [
        position
        for position, node in enumerate(nodes)
        if stage in node.meta.get("nn_module_stack", ())
    ]
    if not inside:
        names = [name for node in nodes for name in node.meta.get("nn_module_stack", ())]
        stages = dict.fromkeys(str(n.target).split(".")[0] for n in nodes if n.op == "call_module")
        raise UserError(
            f"params.yaml candidates: train_from: {cut}: the network has no such stage; "
            f"{suggestion(cut, names)} It has {', '.join(stages)} and their parts"
        )
    first = inside[0]
    later = set(nodes[first:])
    crossing = [node for node in nodes[:first] if later.intersection(node.users)]
    if len(crossing) != 1:
        raise UserError(
            f"params.yaml candidates: train_from: {cut}: training cannot begin there, since "
            f"{len(crossing)} values cross into it; take the stage around it"
        )
    return first, crossing[0]


class Network:
    """A trained network computed by torch: the reference for the export."""

    def __init__(self, path: Path) -> None:
        """Load a file from `save_network`; nothing in it is executed."""
        about = read_metadata(path)
        self.architecture: str = about["architecture"]
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.image_size: int = about["image_size"]
        self.candidate: dict[str, Any] = about["candidate"]
        # Versions that were registered before there was a choice do not name these.
        self.precision: str = about.get("precision", "float32")
        self.temperature: float = about.get("temperature", 1.0)
        network = build_network(self.architecture, len(self.classes), seed=0)
        network.load_state_dict(safetensors.torch.load_file(path))
        self._traced = trace(network)

    @torch.inference_mode()
    def predict(
        self, images: np.ndarray[Any, np.dtype[np.uint8]]
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Predict probabilities float32 [N, K] for uint8 pixels [N, S, S, 3], S = image_size.

        They are computed in float32, whatever the network's precision, and are
        softmax(logits / temperature), see `calibration.fit_temperature`.
        """
        _, probabilities = self.exportable()(torch.from_numpy(images))
        computed: np.ndarray[Any, np.dtype[np.float32]] = probabilities.numpy()
        return computed

    def exportable(self) -> nn.Module:
        """Build one module for the export: pixels in, the head's input and probabilities out."""
        return _FromPixels(
            prefix(self._traced, [HEAD]), suffix(self._traced, HEAD), self.temperature
        )


class _FromPixels(nn.Module):
    def __init__(self, prefix: nn.Module, head: nn.Module, temperature: float) -> None:
        super().__init__()
        self.prefix, self.head, self.temperature = prefix, head, temperature

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        (features,) = self.prefix(normalize(pixels))
        return features, (self.head(features) / self.temperature).softmax(dim=1)


def save_network(
    path: Path,
    network: nn.Module,
    *,
    architecture: str,
    classes: Sequence[str],
    image_size: int,
    candidate: dict[str, Any],
    precision: str,
    temperature: float = 1.0,
) -> None:
    """Write all weights, and the metadata to use them, as one safetensors file."""
    about = {
        "architecture": architecture,
        "classes": list(classes),
        "image_size": image_size,
        "candidate": candidate,
        "precision": precision,
        "temperature": temperature,
    }
    safetensors.torch.save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()},
        path,
        metadata={"crossfold": json.dumps(about, sort_keys=True)},
    )
