from pathlib import Path

import numpy as np
import pytest

from crossfold.data.examples import TEST, Examples
from crossfold.evaluation import shown_images
from crossfold.evaluation.explanations import activation_maps
from crossfold.evaluation.shown_images import confident_mistakes, typical_right
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network import trained_network
from crossfold.network.trained_network import Network
from crossfold.records import PredictedImages

from .. import networks

CLASSES = ("red", "green", "blue")


def _images(labels: list[int], probabilities: list[list[float]]) -> PredictedImages:
    return PredictedImages(
        classes=CLASSES,
        paths=tuple(f"{n:02}.png" for n in range(len(labels))),
        labels=tuple(labels),
        probabilities=tuple((red, green, blue) for red, green, blue in probabilities),
    )


# Of the class red, three are right and two are wrong; of green, two are right; of blue, one wrong.
IMAGES = _images(
    [0, 0, 0, 0, 0, 1, 1, 2],
    [
        [0.9, 0.1, 0.0],
        [0.2, 0.7, 0.1],
        [0.5, 0.3, 0.2],
        [0.7, 0.2, 0.1],
        [0.1, 0.1, 0.8],
        [0.1, 0.6, 0.3],
        [0.1, 0.8, 0.1],
        [0.1, 0.7, 0.2],
    ],
)


def test_the_most_confident_mistake_is_first_and_ties_are_in_order_of_their_paths() -> None:
    assert confident_mistakes(IMAGES) == [4, 1, 7]


def test_of_the_right_ones_each_class_has_one_of_median_confidence() -> None:
    assert typical_right(IMAGES) == [3, 5]


def test_there_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown_images, "NUM_MISTAKES", 2)
    monkeypatch.setattr(shown_images, "NUM_RIGHT", 1)
    assert (confident_mistakes(IMAGES), typical_right(IMAGES)) == ([4, 1], [3])


def _network(path: Path, image_size: int) -> Network:
    trained_network.save_network(
        path,
        networks.build("shufflenet_v2_x0_5"),
        architecture="shufflenet_v2_x0_5",
        classes=CLASSES,
        preprocessing=Preprocessing(image_size),
        precision="float32",
    )
    return Network(path)


def test_the_reports_images_have_maps_that_are_the_same_every_time(
    examples: Path, tmp_path: Path
) -> None:
    table = Examples(examples)
    labels = table.column("label", TEST).tolist()
    generator = np.random.default_rng(0)
    images = _images(labels, generator.dirichlet([1, 1, 1], len(labels)).tolist())
    network = _network(tmp_path / "network", 128)
    found = activation_maps(network, table, images)
    wanted = confident_mistakes(images) + typical_right(images)
    assert [one.position for one in found] == wanted
    assert {np.shape(one.values) for one in found} == {(4, 4)}
    assert found == activation_maps(network, table, images)


def test_a_network_without_a_feature_map_gives_no_maps(examples: Path, tmp_path: Path) -> None:
    network = _network(tmp_path / "network", 32)  # its last feature map has one position
    assert activation_maps(network, Examples(examples), IMAGES) == ()
