from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from crossfold.evaluation import calibration
from crossfold.network import trained_network
from crossfold.network.openvino_engine import Classifier, export
from crossfold.network.views import KINDS, DrawnViews, WithViews
from crossfold.settings import View
from tests.unit.networks import SMALL, Pixels, build, pixels, save


def cropped(images: Pixels) -> Pixels:
    """Enlarge the centre 26 of 32 pixels as Pillow does."""
    centres = (Image.fromarray(image[3:29, 3:29]) for image in images)
    enlarged = (centre.resize((32, 32), Image.Resampling.BILINEAR) for centre in centres)
    return np.stack([np.asarray(square) for square in enlarged])


BY_HAND: dict[str, Callable[[Pixels], Pixels]] = {
    "mirrored": lambda images: images[:, :, ::-1].copy(),
    "cropped": cropped,
}


def as_input(images: Pixels) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def test_every_kind_of_the_settings_is_known() -> None:
    assert set(get_args(View)) == KINDS.keys() == BY_HAND.keys()


def test_each_image_is_followed_by_its_views() -> None:
    images = pixels(3, 32)
    found = WithViews(tuple(BY_HAND))(as_input(images)).unflatten(0, (3, -1))
    assert torch.equal(found[:, 0], as_input(images))
    for index, by_hand in enumerate(BY_HAND.values(), 1):
        np.testing.assert_allclose(found[:, index], as_input(by_hand(images)), atol=1)


def test_a_prediction_is_the_mean_over_the_views_in_torch_and_exported(tmp_path: Path) -> None:
    network, images = build(SMALL), pixels(5, 33)
    own = trained_network.Network(save(tmp_path / "own", network))
    variants = [own.predict(images), own.predict(BY_HAND["mirrored"](images))]
    wanted = calibration.tempered(np.mean(variants, axis=0), 1.7)
    path = save(tmp_path / "views", network, temperature=1.7, views=["mirrored"])
    export(path, tmp_path / "exported")
    exported = Classifier(tmp_path / "exported", num_threads=1)
    for count in (5, 1):
        found = exported.predict(images[:count])
        np.testing.assert_allclose(found, wanted[:count], atol=1e-5)
    np.testing.assert_allclose(trained_network.Network(path).predict(images), wanted, atol=1e-6)
    assert np.abs(variants[0] - variants[1]).max() > 1e-3, "the views make no difference"


def test_drawn_views_differ_from_image_to_image_and_are_drawn_by_the_seed() -> None:
    (image,) = as_input(pixels(1, 32))
    drawn = DrawnViews(["mirrored"], [], 32)

    def mirrored(seed: int) -> list[bool]:
        torch.manual_seed(seed)
        found = drawn(image.expand(40, -1, -1, -1))
        assert all(torch.equal(one, image) or torch.equal(one, image.flip(-1)) for one in found)
        return [torch.equal(one, image.flip(-1)) for one in found]

    first = mirrored(1)
    assert 10 < sum(first) < 30
    assert first == mirrored(1) != mirrored(2)


@pytest.mark.parametrize("predicted", [[], ["mirrored", "cropped"]])
def test_nothing_is_drawn_in_evaluation(predicted: list[str]) -> None:
    images = as_input(pixels(2, 32))
    drawn = DrawnViews(["mirrored", "cropped"], predicted, 32)
    assert not torch.equal(drawn.train()(images), images)
    assert torch.equal(drawn.eval()(images), WithViews(predicted)(images))
