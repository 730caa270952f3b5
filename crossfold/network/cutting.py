"""Cut a network in two: a frozen prefix, and a suffix to train.

A network is traced once with torch.fx in evaluation mode. A cut is the one value that everything
from a stage on is computed from; before it lies the prefix, after it the suffix. Both share the
network's own modules, so a trained suffix is a trained network. See docs/decisions/003-fx-cuts.md.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import fx, nn

from crossfold.errors import UserError, suggestion
from crossfold.settings import HEAD


def head_name(network: nn.Module) -> str:
    """Find the name of the classifier's layer, in every network the last one."""
    layers: list[str] = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    return layers[-1]


def trace(network: nn.Module) -> fx.GraphModule:
    """Trace the network, in evaluation mode, as a graph of layers.

    Raises:
        UserError: torch.fx cannot trace it.
    """
    tracer = _Tracer()
    if type(network).__module__.startswith("timm."):
        from . import timm_networks

        tracer = _Tracer(timm_networks.whole_modules(), timm_networks.whole_functions())
    try:
        return fx.GraphModule(network, tracer.trace(network.eval()))
    except Exception as error:  # of the network's own code, which may branch on values
        raise UserError(
            f"params.yaml model.architecture: this network cannot be traced: {error}. Choose "
            "another architecture"
        ) from error


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
        # A head must stay a layer, and timm has its own linear layers.
        return isinstance(module, (nn.Linear, *self.whole_modules)) or (
            inside and not isinstance(module, nn.Sequential)
        )

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,
        concrete_args: Any = None,
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Trace a network as a function of images alone: masks and such keep their defaults."""

        def of_images(network: nn.Module, images: Any) -> Any:
            return root_fn(network, images)

        return super().create_args_for_root(of_images, is_module, concrete_args)


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


def suffix(traced: fx.GraphModule, cut: str) -> fx.GraphModule:
    """Build the suffix after a cut: the cut's value in, logits [N, K] out.

    Raises:
        UserError: the cut is not a stage of the network.
    """
    first, value = _cut(traced, cut)
    graph = fx.Graph()
    copies = {value: graph.placeholder("features")}
    for node in list(traced.graph.nodes)[first:]:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    return fx.GraphModule(traced, graph)


def between(traced: fx.GraphModule, start: str, end: str) -> fx.GraphModule:
    """Build the part between two cuts: the first one's value in, a tuple with the second's out.

    Raises:
        UserError: a cut is not a stage of the network.
    """
    (first, value), (last, result) = _cut(traced, start), _cut(traced, end)
    graph = fx.Graph()
    copies = {value: graph.placeholder("features")}
    for node in list(traced.graph.nodes)[first:last]:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output((copies[result],))
    return fx.GraphModule(traced, graph)


def _cut(traced: fx.GraphModule, cut: str) -> tuple[int, fx.Node]:
    """Find a stage's first position in the graph and the one value that crosses into it."""
    places = _places(traced)
    stage = head_name(traced) if cut == HEAD else cut
    if stage not in places:
        top = dict.fromkeys(name.split(".")[0] for name in places)
        raise UserError(
            f"params.yaml candidates: train_from: {cut}: the network has no such stage; "
            f"{suggestion(cut, places)} It has {', '.join(top)} and their parts"
        )
    first = places[stage]
    crossing = _crossing(traced, first)
    if len(crossing) == 1:
        return first, crossing[0]
    if cut == HEAD:
        raise UserError(
            f"params.yaml model.architecture: this network has no single classifier: "
            f"{len(crossing)} values reach its last layer, as where several classifiers are "
            "averaged. Choose another architecture (docs/own-weights.md lists these)"
        )
    possible = [
        name
        for name, place in places.items()
        if name.count(".") < 2
        and any(True for _ in traced.get_submodule(name).parameters())
        and len(_crossing(traced, place)) == 1
    ]
    raise UserError(
        f"params.yaml candidates: train_from: {cut}: training cannot begin there, since "
        f"{len(crossing)} values cross into it; it can begin at {', '.join(possible)}"
    )


def _places(traced: fx.GraphModule) -> dict[str, int]:
    """Find the first position in the graph of each stage that it uses."""
    places: dict[str, int] = {}
    for position, node in enumerate(traced.graph.nodes):
        for name in node.meta.get("nn_module_stack", ()):
            places.setdefault(name, position)
    return places


def _crossing(traced: fx.GraphModule, first: int) -> list[fx.Node]:
    """List the values that are computed before a position and used from there on."""
    nodes = list(traced.graph.nodes)
    later = set(nodes[first:])
    return [node for node in nodes[:first] if later.intersection(node.users)]
