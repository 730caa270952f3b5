"""Compute trained networks and frozen prefixes with OpenVINO, which needs no torch.

torch trains, and is the reference for the graphs; see docs/decisions/019-engine.md.
"""

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
from openvino import opset13

from crossfold.imaging.preprocessing import Preprocessing

from . import safetensors_file

if TYPE_CHECKING:
    from torch import nn

Values = np.ndarray[Any, np.dtype[np.float32]]

ENGINE = f"openvino {version('openvino')}"
ALL_CORES = 0
_TYPES = {"float32": "f32", "bfloat16": "bf16"}


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
        features, head = split(model)
        self._features = compiled(features, about["precision"], num_threads)
        # In fewer digits than it was trained with, its large terms would not cancel.
        self._head = compiled(head, "float32", num_threads)

    def predict(
        self, images: np.ndarray[Any, np.dtype[np.uint8]]
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Predict probabilities float32 [N, K] for uint8 pixels [N, S, S, 3] of its size."""
        (features,) = self._features(images)
        (probabilities,) = self._head(features)
        return probabilities


def export(weights: Path, path: Path) -> None:
    """Export a network from train_final as a graph for `Classifier`."""
    from .trained_network import Network

    network = Network(weights)
    about = {
        "architecture": network.architecture,
        "classes": network.classes,
        "preprocessing": asdict(network.preprocessing),
        "precision": network.precision,
    }
    save(path, from_torch(network.exportable(), network.preprocessing.image_size), about)


def from_torch(module: "nn.Module", image_size: int) -> openvino.Model:
    """Convert a module for uint8 pixels [N, S, S, 3] to a graph, for any N.

    Each value of the tuple that the module returns is an output, in that order.
    """
    import torch

    example = torch.zeros((2, image_size, image_size, 3), dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        # torch deprecates this tracer, which OpenVINO uses too, and it warns of each constant.
        warnings.simplefilter("ignore")
        # OpenVINO would check the trace with a second one, after a second of imports.
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            module.eval(), example, check_trace=False
        )
        return openvino.convert_model(
            traced, example_input=example, input=[-1, image_size, image_size, 3]
        )


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
    network = openvino.Core().compile_model(model, "CPU", settings)

    def compute(batch: np.ndarray[Any, Any]) -> list[Values]:
        # One inference request per call: shared requests are not thread-safe, and creating one is
        # cheap.
        return list(network.infer_new_request([batch]).values())

    return compute


def split(model: openvino.Model) -> tuple[openvino.Model, openvino.Model]:
    """Split a graph with two outputs at the first one, into two graphs."""
    first = openvino.Model([model.outputs[0]], model.get_parameters())
    rest = model.clone()
    crossing = rest.outputs[0].get_node().input_value(0)
    taken = opset13.parameter(crossing.get_partial_shape(), crossing.get_element_type())
    crossing.replace(taken.output(0))
    return first, openvino.Model([rest.outputs[1]], [taken])


def save(path: Path, model: openvino.Model, about: Mapping[str, Any]) -> None:
    """Write a graph and its JSON metadata as one file in safetensors' format.

    Of OpenVINO's two files, the XML becomes metadata and the weights become one tensor.
    """
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "graph.xml"
        openvino.serialize(model, xml)
        weights = np.fromfile(xml.with_suffix(".bin"), np.uint8)
        safetensors_file.write(path, {"weights": weights}, {**about, "xml": xml.read_text()})


def load(path: Path) -> tuple[openvino.Model, dict[str, Any]]:
    """Load a graph from `save`, with its metadata; the file contains no code."""
    arrays, about = safetensors_file.read(path)
    xml = about.pop("xml")
    # A copy: the file may be deleted during use.
    weights = openvino.Tensor(np.array(arrays["weights"]))
    return openvino.Core().read_model(xml.encode(), weights), about
