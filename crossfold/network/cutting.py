"""Cut a network in two: a frozen prefix, and a suffix to train.

A network is traced once with torch.fx in evaluation mode. A cut is the one value that everything
from a stage on is computed from; before it lies the prefix, after it the suffix. Both share the
network's own modules, so a trained suffix is a trained network. See docs/decisions/003-fx-cuts.md.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import fx, nn

from crossfold.errors import UserError, suggestion
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.settings import HEAD, PIXELS

from .preprocessing import from_pixels


def head_name(network: nn.Module) -> str:
    """Find the name of the classifier's layer, in every network the last one."""
    layers: list[str] = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    return layers[-1]


def trace(network: nn.Module) -> fx.GraphModule:
    """Trace the network, in evaluation mode, as a graph of layers."""
    tracer = _Tracer()
    if type(network).__module__.startswith("timm."):
        from . import timm_networks

        tracer = _Tracer(timm_networks.whole_modules(), timm_networks.whole_functions())
    return fx.GraphModule(network, tracer.trace(network.eval()))


class _Tracer(fx.Tracer):
    def __init__(
        self,
        whole_modules: tuple[type[nn.Module], ...] = (),
        whole_functions: Sequence[Callable[..., Any]] = (),
    ) -> None:
        super().__init__(autowrap_functions=tuple(whole_functions))
        self.whole_modules = whole_modules

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        # StochasticDepth and similar layers read `training`, which a trace would freeze.
        inside = module.__module__.startswith(("torch.nn", "torchvision.ops"))
        return isinstance(module, self.whole_modules) or (
            inside and not isinstance(module, nn.Sequential)
        )


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


def suffix(traced: fx.GraphModule, cut: str, preprocessing: Preprocessing) -> nn.Module:
    """Build the suffix after a cut: the cut's value in, logits [N, K] out.

    From "pixels" on, that is the whole network and takes uint8 pixels [N, S, S, 3].

    Raises:
        UserError: the cut is not a stage of the network.
    """
    if cut == PIXELS:
        return from_pixels(traced, preprocessing)
    first, value = _cut(traced, cut)
    graph = fx.Graph()
    copies = {value: graph.placeholder("features")}
    for node in list(traced.graph.nodes)[first:]:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    return fx.GraphModule(traced, graph)


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
