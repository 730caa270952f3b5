import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from crossfold.network import cutting, normalization, openvino_engine, trained_network
from crossfold.network.openvino_engine import Classifier, export
from tests.unit.networks import IMAGENET, SMALL, build, pixels, save


def prefix(architecture: str, cuts: list[str]) -> torch.nn.Module:
    return normalization.from_pixels(
        cutting.prefix(cutting.trace(build(architecture)), cuts), IMAGENET
    )


@pytest.mark.parametrize(
    ("architecture", "size", "cuts"),
    [
        ("alexnet", 64, ["head", "features.8"]),
        pytest.param("vgg11_bn", 32, ["head", "features.16"], marks=pytest.mark.slow),
        ("resnet18", 40, ["head", "layer4"]),
        pytest.param("resnext50_32x4d", 40, ["layer4"], marks=pytest.mark.slow),
        pytest.param("densenet121", 40, ["head"], marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", 40, ["head"], marks=pytest.mark.slow),
        ("mobilenet_v3_small", 40, ["features.9"]),
        ("mnasnet0_5", 40, ["head"]),
        pytest.param("regnet_y_400mf", 40, ["head"], marks=pytest.mark.slow),
        ("shufflenet_v2_x0_5", 40, ["conv5", "stage3.2"]),
        ("squeezenet1_1", 40, ["head"]),
        pytest.param("efficientnet_b0", 40, ["features.6"], marks=pytest.mark.slow),
        pytest.param("googlenet", 40, ["head"], marks=pytest.mark.slow),
        pytest.param("inception_v3", 96, ["head"], marks=pytest.mark.slow),
        ("convnext_tiny", 40, ["features.7"]),
        pytest.param("swin_t", 64, ["features.7"], marks=pytest.mark.slow),
        pytest.param("swin_v2_t", 64, ["features.5"], marks=pytest.mark.slow),
        pytest.param("vit_b_32", 224, ["head"], marks=pytest.mark.slow),
        pytest.param("maxvit_t", 224, ["head"], marks=pytest.mark.slow),
    ],
)
def test_a_graph_gives_what_torch_gives(architecture: str, size: int, cuts: list[str]) -> None:
    module = prefix(architecture, cuts)
    compute = openvino_engine.compiled(
        openvino_engine.from_torch(module, size), "float32", num_threads=1
    )
    for count in (3, 1):  # the graph was made with two
        images = pixels(count, size)
        with torch.inference_mode():
            wanted = module(torch.from_numpy(images))
        found = compute(images)
        assert len(found) == len(cuts)
        for value, reference in zip(found, wanted, strict=True):
            scale = float(reference.abs().max())
            np.testing.assert_allclose(value, reference.numpy(), rtol=0, atol=2e-5 * scale)


def test_two_names_for_one_cut_are_two_outputs() -> None:
    compute = openvino_engine.compiled(
        openvino_engine.from_torch(prefix("resnet18", ["head", "fc"]), 40), "float32", 1
    )
    one, other = compute(pixels(2, 40))
    np.testing.assert_array_equal(one, other)


def values_of_images(count: int) -> bytes:
    graph = openvino_engine.from_torch(prefix("resnet18", ["head"]), 40)
    (values,) = openvino_engine.compiled(graph, "float32", 2)(pixels(7, 40)[:count])
    return values.tobytes()


@pytest.mark.slow
def test_values_of_an_image_are_the_same_in_every_batch_and_process() -> None:
    program = (
        "import sys; from tests.unit.network.test_openvino_engine import values_of_images\n"
        "sys.stdout.buffer.write(values_of_images(7))"
    )
    elsewhere = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    whole = values_of_images(7)
    assert len(whole) == 7 * 512 * 4
    assert elsewhere.stdout == whole
    assert whole.startswith(values_of_images(3))


def test_bfloat16_gives_the_same_in_fewer_digits_or_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = openvino_engine.from_torch(prefix("resnet18", ["head"]), 40)
    exact, fewer = (
        openvino_engine.compiled(model, precision, 1)(pixels(4, 40))[0]
        for precision in ("float32", "bfloat16")
    )
    difference = np.abs(exact - fewer).max() / np.abs(exact).max()
    computed = openvino_engine.has_bfloat16()
    assert 1e-5 < difference < 0.05 if computed else difference == 0
    assert ("no instructions for bfloat16" in caplog.text) is not computed


def test_a_saved_graph_computes_the_same_when_its_file_is_gone(tmp_path: Path) -> None:
    model = openvino_engine.from_torch(prefix("squeezenet1_1", ["head"]), 40)
    openvino_engine.save(tmp_path / "graph", model, {"classes": ["ü"]})
    loaded, about = openvino_engine.load(tmp_path / "graph")
    (tmp_path / "graph").unlink()
    assert about == {"classes": ["ü"]}
    (wanted,), (found,) = (
        openvino_engine.compiled(m, "float32", 1)(pixels(2, 40)) for m in (model, loaded)
    )
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * float(np.abs(wanted).max()))


def test_a_graph_is_split_at_its_first_output() -> None:
    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = prefix("resnet18", ["head"]), torch.nn.Linear(512, 3)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            (value,) = self.first(images)
            return value, self.head(value)

    model = openvino_engine.from_torch(Both(), 40)
    images = pixels(3, 40)
    whole = openvino_engine.compiled(model, "float32", 1)(images)
    beginning, rest = (
        openvino_engine.compiled(part, "float32", 1) for part in openvino_engine.split(model)
    )
    (value,) = beginning(images)
    (result,) = rest(value)
    np.testing.assert_array_equal(value, whole[0])
    np.testing.assert_allclose(result, whole[1], rtol=1e-6)


def test_openvino_reports_nothing_to_anybody() -> None:
    program = (
        "import crossfold.network.openvino_engine, sys, importlib.util\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
        "import openvino.tools.ovc as ovc\n"
        "assert type(ovc.telemetry).__module__ == 'openvino.tools.ovc.telemetry_stub'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("network") / "model", build(SMALL))


def exported(weights: Path) -> Path:
    path = weights.with_name(f"{weights.name}.exported")
    export(weights, path)
    return path


@pytest.mark.parametrize("architecture", [SMALL, "shufflenet_v2_x0_5", "resnet18"])
def test_the_export_predicts_what_torch_predicts(tmp_path: Path, architecture: str) -> None:
    weights = save(tmp_path / "model", build(architecture), architecture)
    network, classifier = trained_network.Network(weights), Classifier(exported(weights), 1)
    images = pixels(5, 33)
    found = classifier.predict(images)
    assert found.dtype == np.float32 and found.shape == (5, 3)
    np.testing.assert_allclose(found, network.predict(images), atol=1e-5)
    assert (classifier.classes, classifier.preprocessing.image_size) == (network.classes, 33)


def test_a_network_in_bfloat16_predicts_the_same_in_fewer_digits(
    tmp_path: Path, saved: Path
) -> None:
    fewer = save(tmp_path / "fewer", build(SMALL), precision="bfloat16")
    exact = Classifier(exported(saved)).predict(pixels(8, 33))
    error = np.abs(exact - Classifier(exported(fewer)).predict(pixels(8, 33))).max()
    assert 1e-6 < error < 0.02 if openvino_engine.has_bfloat16() else error == 0


def test_threads_that_ask_at_once_each_get_their_own_answer(saved: Path) -> None:
    classifier = Classifier(exported(saved), 1)
    images = [pixels(1, 33, seed) for seed in range(64)]
    one_by_one = np.stack([classifier.predict(image) for image in images])
    assert len(np.unique(one_by_one, axis=0)) == len(images)
    with ThreadPoolExecutor(8) as threads:
        at_once = np.stack(list(threads.map(classifier.predict, images * 4)))
    np.testing.assert_array_equal(at_once, np.tile(one_by_one, (4, 1, 1)))


def test_an_exported_network_needs_no_torch(saved: Path) -> None:
    program = (
        "import sys, numpy; from pathlib import Path\n"
        "from crossfold.network.openvino_engine import Classifier\n"
        "Classifier(Path(sys.argv[1])).predict(numpy.zeros((1, 33, 33, 3), numpy.uint8))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, exported(saved)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
