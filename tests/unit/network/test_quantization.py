from collections import Counter

import numpy as np
import openvino
import pytest
from numpy.typing import NDArray

from crossfold.network import cutting, openvino_engine, processor
from crossfold.network.quantization import quantize
from tests.unit.networks import build

SIZE = 40
IMAGES = np.random.default_rng(0).normal(size=(12, 3, SIZE, SIZE)).astype(np.float32)


def graph_of(*cuts: str, architecture: str = "resnet18") -> openvino.Model:
    network = cutting.prefix(cutting.trace(build(architecture)), cuts)
    graph = openvino_engine.convert(network, (3, SIZE, SIZE))
    openvino_engine.name_outputs(graph, cuts)
    return graph


def values(
    graph: openvino.Model, num_threads: int = 1, batch: int = 12
) -> list[NDArray[np.float32]]:
    compute = openvino_engine.compiled(graph, "int8", num_threads)
    parts = [compute(IMAGES[start : start + batch]) for start in range(0, 12, batch)]
    return [np.concatenate(of_output) for of_output in zip(*parts, strict=True)]


def rounded_to(value: openvino.Output) -> int:
    """The number of values that a layer's input is rounded to; 0 if it is not."""
    node = value.get_node()
    while node.get_type_name() in ("MaxPool", "Reshape"):
        node = node.input_value(0).get_node()
    return int(node.get_attributes()["levels"]) if node.get_type_name() == "FakeQuantize" else 0


def test_every_layers_input_and_weights_are_quantized() -> None:
    graph = quantize(graph_of("head", architecture="mobilenet_v3_small"), [IMAGES], 1)
    found = Counter(
        (node.get_type_name(), rounded_to(node.input_value(0)), rounded_to(node.input_value(1)))
        for node in graph.get_ordered_ops()
        if node.get_type_name().endswith(("Convolution", "MatMul"))
    )
    assert found == {
        ("Convolution", 256, 255): 41,
        ("GroupConvolution", 256, 255): 11,
        ("MatMul", 256, 255): 1,
    }


@pytest.mark.parametrize("architecture", ["resnet18", "shufflenet_v2_x0_5"])
def test_the_values_stay_near(architecture: str) -> None:
    graph = graph_of("head", architecture=architecture)
    (found,), (wanted,) = values(quantize(graph, [IMAGES], 1)), values(graph)
    assert 1e-4 < np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.3


def test_the_same_images_give_the_same_graph_whatever_the_number_of_threads() -> None:
    (xml, weights), (again, same) = (
        openvino_engine.serialize(quantize(graph_of("head"), [IMAGES], num_threads))
        for num_threads in (1, 2)
    )
    assert (xml, weights.tobytes()) == (again, same.tobytes())


def test_the_heads_input_depends_on_no_other_cut_batch_or_number_of_threads() -> None:
    both, head = (
        quantize(graph_of(*cuts), [IMAGES], 1) for cuts in (("layer4", "head"), ("head",))
    )
    of_layer4, of_head = values(both)
    for graph in (head, openvino_engine.with_outputs(both, ["head"])):
        np.testing.assert_array_equal(values(graph, num_threads=2, batch=1)[0], of_head)
    (alone,) = values(openvino_engine.with_outputs(both, ["layer4"]))
    assert np.mean(alone != of_layer4) < 1e-3  # a value between two steps may be rounded otherwise


@pytest.mark.usefixtures("int8_instructions")
def test_without_instructions_the_rounded_layers_are_computed_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact_graph = graph_of("head", architecture="shufflenet_v2_x0_5")
    graph = quantize(exact_graph, [IMAGES], 1)
    (wanted,), (exact,) = values(graph), values(exact_graph)
    monkeypatch.setattr(processor, "has_int8", lambda: False)
    (found,) = values(graph)
    assert not np.array_equal(found, wanted)
    # Nearer to the integers than to the network that is not rounded.
    assert 3 * np.linalg.norm(found - wanted) < np.linalg.norm(exact - wanted)
