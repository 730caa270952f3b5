import numpy as np
import openvino
import pytest
from numpy.typing import NDArray

from crossfold.network import cutting, openvino_engine
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


@pytest.mark.parametrize("architecture", ["resnet18", "shufflenet_v2_x0_5"])
def test_every_layer_is_quantized_and_the_values_stay_near(architecture: str) -> None:
    graph = graph_of("head", architecture=architecture)
    (found,), (wanted,) = values(quantize(graph, [IMAGES])), values(graph)
    assert 1e-4 < np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.3


def test_the_same_images_give_the_same_graph() -> None:
    (xml, weights), (again, same) = (
        openvino_engine.serialize(quantize(graph_of("head"), [IMAGES])) for _ in range(2)
    )
    assert (xml, weights.tobytes()) == (again, same.tobytes())


def test_the_heads_input_depends_on_no_other_cut_batch_or_number_of_threads() -> None:
    both, head = (quantize(graph_of(*cuts), [IMAGES]) for cuts in (("layer4", "head"), ("head",)))
    of_layer4, of_head = values(both)
    for graph in (head, openvino_engine.with_output(both, "head")):
        np.testing.assert_array_equal(values(graph, num_threads=2, batch=1)[0], of_head)
    (alone,) = values(openvino_engine.with_output(both, "layer4"))
    assert np.mean(alone != of_layer4) < 1e-3  # a value between two steps may be rounded otherwise
