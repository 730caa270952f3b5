"""Quantize the frozen prefix of a network to int8, so that its layers compute with integers.

FakeQuantize operations in OpenVINO's graph round the input and the weights of each layer to 256
and 255 values. Where the processor has instructions for it, OpenVINO computes such a layer in int8.
The ranges are those of some training images. See docs/decisions/044-int8.md.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13

from crossfold.settings import HEAD

from .openvino_engine import compiled

NUM_IMAGES = 64  # more change nothing: docs/decisions/047-precision-auto.md
# Share of the images whose highest value a range has room for; a rare outlier would coarsen it.
COVERED = 0.99
_LAYERS = ("Convolution", "GroupConvolution", "MatMul")
# Operations that only move values: quantized before them, a layer's input can stay int8.
_MOVING = ("MaxPool", "Pad", "Reshape", "Transpose")

Images = NDArray[np.float32]


def quantize(prefix: openvino.Model, batches: Iterable[Images], num_threads: int) -> openvino.Model:
    """Quantize each layer with constant weights, as its inputs for some images suggest.

    The values at each cut except the head are rounded too: an output in between would otherwise
    change what OpenVINO fuses, and with it the last digits behind it. The same images in the same
    batches give the same graph, whatever the number of threads.

    Args:
        prefix: the graph of a frozen prefix, with outputs named by cut; it is not changed.
        batches: its inputs for some training images, float32 [B, 3, S, S] each.
        num_threads: processor threads.

    Returns:
        A graph with the same inputs and outputs.
    """
    quantized = prefix.clone()
    ranges = _ranges(prefix, batches, num_threads)
    for source, (low, high) in zip(_sources(quantized), ranges, strict=True):
        consumers = [each for each in source.get_target_inputs() if not _is_head(each.get_node())]
        rounded = _rounded(source, *_with_zero(low, high), levels=256)
        for consumer in consumers:
            consumer.replace_source_output(rounded)
    for layer in _layers(quantized):
        weights = layer.input_value(1)
        bound = _largest_by_channel(layer, weights.get_node().data)
        layer.input(1).replace_source_output(_rounded(weights, -bound, bound, levels=255))
    _number(quantized)
    return quantized


def _layers(model: openvino.Model) -> list[openvino.Node]:
    """List the layers with constant weights, in the order of the computation."""
    return [
        node
        for node in model.get_ordered_ops()
        if node.get_type_name() in _LAYERS and _is_constant(node, 1) and not _is_constant(node, 0)
    ]


def _is_constant(node: openvino.Node, position: int) -> bool:
    name: str = node.input_value(position).get_node().get_type_name()
    return name == "Constant"


def _is_head(node: openvino.Node) -> bool:
    return bool(node.get_type_name() == "Result" and node.get_friendly_name() == HEAD)


def _sources(model: openvino.Model) -> list[openvino.Output]:
    """List the distinct values that reach layers and cuts, each before it is only moved."""
    sources: dict[tuple[str, int], openvino.Output] = {}
    cuts = [result for result in model.get_results() if not _is_head(result)]
    for consumer in (*_layers(model), *cuts):
        source = consumer.input_value(0)
        while source.get_node().get_type_name() in _MOVING:
            source = source.get_node().input_value(0)
        sources.setdefault((source.get_node().get_friendly_name(), source.get_index()), source)
    return list(sources.values())


def _ranges(
    prefix: openvino.Model, batches: Iterable[Images], num_threads: int
) -> list[tuple[float, float]]:
    """Compute the range of each source from the lowest and highest value of each image."""
    watched = prefix.clone()
    extremes = []
    for source in _sources(watched):
        axes = np.arange(1, len(source.get_partial_shape()))
        extremes += [opset13.reduce_min(source, axes), opset13.reduce_max(source, axes)]
    compute = compiled(
        openvino.Model([each.output(0) for each in extremes], watched.get_parameters()),
        "float32",
        num_threads,
    )
    of_batches = [np.stack(compute(batch)) for batch in batches]
    of_images = np.concatenate(of_batches, axis=1)  # [2 * sources, images]
    lows = np.quantile(of_images[::2], 1 - COVERED, axis=1)
    highs = np.quantile(of_images[1::2], COVERED, axis=1)
    return [(float(low), float(high)) for low, high in zip(lows, highs, strict=True)]


def _with_zero(low: float, high: float) -> tuple[float, float]:
    """Widen a range so that zero, the padding's value, is one of 256 equally spaced values.

    Values of both signs get a range from -128 to 127 steps: int8 without an offset.
    """
    if low >= 0:
        return 0.0, high or 1.0
    step = max(-low / 128, high / 127)
    return -128 * step, 127 * step


def _largest_by_channel(layer: openvino.Node, weights: NDArray[Any]) -> NDArray[np.float32]:
    """Compute the largest absolute weight of each output channel, in a shape that broadcasts."""
    axes = {
        "Convolution": tuple(range(1, weights.ndim)),
        "GroupConvolution": tuple(range(2, weights.ndim)),
        "MatMul": (-1 if layer.get_attributes().get("transpose_b") else -2,),
    }[layer.get_type_name()]
    largest: NDArray[np.float32] = np.abs(weights).max(axis=axes, keepdims=True)
    return np.where(largest > 0, largest, np.float32(1))


def _rounded(source: openvino.Output, low: Any, high: Any, levels: int) -> openvino.Output:
    bounds = [np.asarray(bound, np.float32) for bound in (low, high)]
    return opset13.fake_quantize(source, *bounds, *bounds, levels).output(0)


def _number(model: openvino.Model) -> None:
    """Name all operations by their order: OpenVINO numbers them through the whole process."""
    model.set_friendly_name("prefix")
    for number, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() != "Result":  # named by its cut
            node.set_friendly_name(f"{node.get_type_name()} {number}")
