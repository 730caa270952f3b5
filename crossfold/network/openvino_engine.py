"""Compute trained networks and frozen prefixes with OpenVINO, which needs no torch.

torch trains, and is the reference for the graphs; see docs/decisions/019-engine.md.
"""

import functools
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openvino
from openvino import opset13

from crossfold.imaging.preprocessing import Preprocessing

from . import processor, safetensors_file

if TYPE_CHECKING:
    from torch import nn

Values = np.ndarray[Any, np.dtype[np.float32]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

ENGINE = f"openvino {version('openvino')}"
ALL_CORES = 0
# An int8 graph says itself which layers compute with integers; the others stay in float32.
_TYPES = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


class FrozenGraph(NamedTuple):
    """The graph of a frozen prefix: normalized images [N, 3, S, S] in, the values at a cut out."""

    model: openvino.Model
    cut: str


class Classifier:
    """An exported network: pixels in, probabilities out.

    Attributes:
        classes: The names of the classes, in the order of the probabilities.
        preprocessing: How an image becomes the pixels that it takes.
    """

    def __init__(self, path: Path, num_threads: int = ALL_CORES) -> None:
        """Load an exported network; nothing in the file is executed."""
        model, about = load(path)
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.preprocessing = Preprocessing.from_metadata(about)
        if about["precision"] == "int8" and not processor.has_int8():
            logging.warning(
                "this processor has no instructions for int8: the network is computed in float32, "
                "slower, from features that differ by about 1 %"
            )
        features, head = split(model)
        self._features = compiled(features, about["precision"], num_threads)
        # In fewer digits than it was trained with, its large terms would not cancel.
        self._head = compiled(head, "float32", num_threads)

    def predict(
        self, images: np.ndarray[Any, np.dtype[np.uint8]]
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Predict probabilities float32 [N, K] for uint8 pixels [N, S, S, 3] of its size."""
        _, probabilities = self.predict_with_features(images)
        return probabilities

    def predict_with_features(self, images: Bytes) -> tuple[Values, Values]:
        """Predict as `predict` does; return the images' input of the head [N, C, ...] too."""
        (features,) = self._features(images)
        (probabilities,) = self._head(features)
        num_views = len(features) // len(images)
        return features[::num_views], probabilities  # an image comes before its other views


def export(weights: Path, path: Path, frozen: FrozenGraph | None = None) -> None:
    """Export a network from train_final as a graph for `Classifier`.

    With `frozen`, the graph of the network's frozen prefix is used as it is.
    """
    from .trained_network import Network

    network = Network(weights)
    about = {
        "architecture": network.architecture,
        "classes": network.classes,
        "preprocessing": asdict(network.preprocessing),
        "precision": network.precision,
    }
    size = network.preprocessing.image_size
    if frozen is None:
        save(path, from_torch(network.exportable(), size), about)
        return
    shape = frozen.model.outputs[0].get_partial_shape()
    values = [shape[axis].get_length() for axis in range(1, len(shape))]
    beginning = chain(from_torch(network.normalization(), size), frozen.model)
    save(path, chain(beginning, convert(network.ending(frozen.cut), values)), about)


def from_torch(module: "nn.Module", image_size: int) -> openvino.Model:
    """Convert a module for uint8 pixels [N, S, S, 3] to a graph, see `convert`."""
    return convert(module, [image_size, image_size, 3], np.uint8)


def convert(
    module: "nn.Module", shape: Sequence[int], dtype: type[np.generic] = np.float32
) -> openvino.Model:
    """Convert a module to a graph, for any number N of inputs; `shape` is that of one of them.

    Each value of the tuple that the module returns is an output, in that order.
    """
    import torch

    example = torch.from_numpy(np.zeros((2, *shape), dtype))
    with torch.no_grad(), warnings.catch_warnings():
        # torch deprecates this tracer, which OpenVINO uses too, and it warns of each constant.
        warnings.simplefilter("ignore")
        # OpenVINO would check the trace with a second one, after a second of imports.
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            module.eval(), example, check_trace=False
        )
        return openvino.convert_model(traced, example_input=example, input=[-1, *shape])


def chain(first: openvino.Model, second: openvino.Model) -> openvino.Model:
    """Feed the only output of a graph to another one."""
    first, second = first.clone(), second.clone()
    (value,) = (result.input_value(0) for result in first.get_results())
    (parameter,) = second.get_parameters()
    parameter.output(0).replace(value)
    return openvino.Model(second.get_results(), first.get_parameters())


def compiled(
    model: openvino.Model, precision: str, num_threads: int
) -> Callable[[np.ndarray[Any, Any]], list[Values]]:
    """Compile a graph to a function from a batch to its float32 outputs.

    Several threads may call it at once.
    """
    settings = {
        "INFERENCE_PRECISION_HINT": _TYPES[precision],
        "INFERENCE_NUM_THREADS": num_threads,
        "NUM_STREAMS": 1,
        # Pinning would hold parallel steps on the same cores.
        "ENABLE_CPU_PINNING": False,
    }
    if precision == "int8" and not processor.has_int8():
        # Integers would saturate. In float32, each layer's input and weights are rounded all the
        # same, and the values agree with those of other processors to about 1 %.
        settings["LP_TRANSFORMS_MODE"] = False
    if precision == "bfloat16" and not has_bfloat16():
        logging.warning(
            "this processor has no instructions for bfloat16: the network is computed in float32"
        )
    network = openvino.Core().compile_model(model, "CPU", settings)

    def compute(batch: np.ndarray[Any, Any]) -> list[Values]:
        # One inference request per call: shared requests are not thread-safe, and creating one is
        # cheap.
        return list(network.infer_new_request([batch]).values())

    return compute


@functools.cache
def has_bfloat16() -> bool:
    """Tell whether OpenVINO computes in bfloat16 on this processor when asked to."""
    value = opset13.parameter([1], np.float32)
    graph = openvino.Model([opset13.relu(value)], [value])
    settings = {"INFERENCE_PRECISION_HINT": _TYPES["bfloat16"]}
    used = openvino.Core().compile_model(graph, "CPU", settings)
    return bool(used.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.bf16)


def split(model: openvino.Model) -> tuple[openvino.Model, openvino.Model]:
    """Split a graph with two outputs at the first one, into two graphs."""
    first = openvino.Model([model.outputs[0]], model.get_parameters())
    rest = model.clone()
    crossing = rest.outputs[0].get_node().input_value(0)
    taken = opset13.parameter(crossing.get_partial_shape(), crossing.get_element_type())
    crossing.replace(taken.output(0))
    return first, openvino.Model([rest.outputs[1]], [taken])


def name_outputs(model: openvino.Model, names: Sequence[str]) -> None:
    """Name the outputs of a graph, to find them again in a file."""
    for result, name in zip(model.get_results(), names, strict=True):
        result.set_friendly_name(name)


def with_outputs(model: openvino.Model, names: Sequence[str]) -> openvino.Model:
    """Reduce a graph to some of its outputs, in the order of their names."""
    results = {result.get_friendly_name(): result for result in model.get_results()}
    reduced = openvino.Model([results[name] for name in names], model.get_parameters())
    # OpenVINO numbers models through the whole process, and the name is part of the file.
    reduced.set_friendly_name(model.get_friendly_name())
    return reduced


def save(path: Path, model: openvino.Model, about: Mapping[str, Any]) -> None:
    """Write a graph and its JSON metadata as one file in safetensors' format.

    Of OpenVINO's two files, the XML becomes metadata and the weights become one tensor.
    """
    xml, weights = serialize(model)
    safetensors_file.write(path, {"weights": weights}, {**about, "xml": xml.decode()})


def load(path: Path) -> tuple[openvino.Model, dict[str, Any]]:
    """Load a graph from `save`, with its metadata; the file contains no code."""
    arrays, about = safetensors_file.read(path)
    xml = about.pop("xml")
    return deserialize(xml.encode(), arrays["weights"]), about


def serialize(model: openvino.Model) -> tuple[bytes, Bytes]:
    """Serialize a graph to OpenVINO's two files: the XML, and the weights as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "graph.xml"
        openvino.serialize(model, xml)
        return xml.read_bytes(), np.fromfile(xml.with_suffix(".bin"), np.uint8)


def deserialize(xml: bytes, weights: Bytes) -> openvino.Model:
    """Read a graph from `serialize`; a copy of the weights, since a file may be deleted."""
    return openvino.Core().read_model(xml, openvino.Tensor(np.array(weights)))
