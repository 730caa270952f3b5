import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from crossfold.network import backbone
from crossfold.network.classifier import Classifier, export
from tests.unit.networks import SMALL, build, pixels, save


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
    network, classifier = backbone.Network(weights), Classifier(exported(weights), 1)
    images = pixels(5, 33)
    found = classifier.predict(images)
    assert found.dtype == np.float32 and found.shape == (5, 3)
    np.testing.assert_allclose(found, network.predict(images), atol=1e-5)
    assert (classifier.classes, classifier.image_size) == (network.classes, 33)


def test_a_network_in_bfloat16_predicts_the_same_in_fewer_digits(
    tmp_path: Path, saved: Path
) -> None:
    fewer = save(tmp_path / "fewer", build(SMALL), precision="bfloat16")
    exact = Classifier(exported(saved)).predict(pixels(8, 33))
    error = np.abs(exact - Classifier(exported(fewer)).predict(pixels(8, 33))).max()
    assert 1e-6 < error < 0.02


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
        "from crossfold.network.classifier import Classifier\n"
        "Classifier(Path(sys.argv[1])).predict(numpy.zeros((1, 33, 33, 3), numpy.uint8))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, exported(saved)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
