import functools
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits, load_sample_image

from crossfold.imaging.near_duplicates import MAX_COMPARED, Index, Pairs, is_flat, shrink

Sketches = NDArray[np.uint8]


@functools.cache
def windows() -> list[Image.Image]:
    """150 windows of a photograph, many of which overlap."""
    whole = Image.fromarray(load_sample_image("china.jpg"))
    starts = [(left, top) for left in range(0, 450, 30) for top in range(100, 300, 20)]
    return [whole.crop((left, top, left + 160, top + 120)) for left, top in starts]


def sketch(image: Image.Image) -> Sketches:
    return np.asarray(shrink(image).convert("L"))


def found(sketches: list[Sketches]) -> Pairs:
    index = Index()
    for one in sketches:
        index.add(one)
    return index.find(np.arange(len(sketches)))


def pairs(sketches: list[Sketches]) -> set[tuple[int, int]]:
    first, second, _ = found(sketches)
    return set(zip(first.tolist(), second.tolist(), strict=True))


def by_comparing_all(sketches: list[Sketches]) -> set[tuple[int, int]]:
    """The rule, said again: each pair of sketches, its bits and its correlation."""
    position = np.arange(32)
    cosines = np.cos(np.pi * np.outer(np.arange(8), 2 * position + 1) / 64)
    bits, pixels = [], []
    for one in sketches:
        lowest = (cosines @ one.astype(float) @ cosines.T).ravel()[1:]
        bits.append(lowest > np.median(lowest))
        pixels.append(one.reshape(16, 2, 16, 2).mean((1, 3)).round().ravel())
    differing = (np.array(bits)[:, None] != np.array(bits)[None]).sum(-1)
    correlation = np.corrcoef(pixels)
    alike = (differing <= 8) & (correlation >= 0.99)
    return {(i, j) for i, j in zip(*np.nonzero(alike), strict=True) if i < j}


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


@pytest.mark.parametrize(
    "change",
    [
        lambda image: jpeg(image, 75),
        lambda image: image.resize((80, 60)),
        lambda image: image.resize((400, 300)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
        lambda image: ImageEnhance.Contrast(image).enhance(0.7),
        lambda image: image.convert("L").convert("RGB"),
    ],
    ids=["jpeg", "smaller", "larger", "darker", "flatter", "grey"],
)
def test_the_same_picture_in_another_file_is_a_near_duplicate(change: object) -> None:
    assert callable(change)
    originals = windows()[::10]
    changed = [change(image) for image in originals]
    number = len(originals)
    hits = pairs([sketch(image) for image in originals + changed])
    missed = {(i, i + number) for i in range(number)} - hits
    assert len(missed) <= 1
    assert {j - i for i, j in hits} == {number}


def test_all_pairs_are_found_that_the_rule_says() -> None:
    rng = np.random.default_rng(0)
    sketches = [sketch(image) for image in windows()]
    sketches += [(s + rng.normal(0, 6, s.shape)).clip(0, 255).astype(np.uint8) for s in sketches]
    expected = by_comparing_all(sketches)
    assert 100 < len(expected) < 300
    assert pairs(sketches) == expected


def test_pairs_are_sorted_and_each_is_there_once() -> None:
    sketches = [sketch(windows()[0])] * 3 + [sketch(windows()[70])] * 2
    first, second, correlation = found(sketches)
    assert first.tolist() == [0, 0, 1, 3]
    assert second.tolist() == [1, 2, 2, 4]
    assert correlation == pytest.approx(np.ones(4))


def test_only_those_asked_for_are_compared() -> None:
    index = Index()
    for number in (0, 70, 0, 0):
        index.add(sketch(windows()[number]))
    first, second, _ = index.find(np.array([3, 1, 2]))
    assert (first.tolist(), second.tolist()) == ([2], [3])


def test_few_images_have_no_near_duplicates() -> None:
    assert pairs([]) == set()
    assert pairs([sketch(windows()[0])]) == set()


def test_flat_images_are_not_compared() -> None:
    grey = np.full((32, 32), 100, np.uint8)
    hardly = grey + np.random.default_rng(0).integers(0, 8, grey.shape, np.uint8)
    assert is_flat(grey) and is_flat(hardly) and not is_flat(sketch(windows()[0]))
    assert pairs([grey, grey, hardly, hardly]) == set()


def test_handwritten_digits_do_not_drown_the_reader() -> None:
    images = [Image.fromarray((d * 15).astype(np.uint8)) for d in load_digits().images]
    assert len(pairs([sketch(image) for image in images])) < 10


def test_a_crowd_that_looks_alike_is_not_compared_each_with_each() -> None:
    """A camera that does not move: each of 3,000 images is like each other."""
    rng = np.random.default_rng(0)
    scene = sketch(windows()[0]).astype(np.float32)
    index = Index()
    for _ in range(3000):
        index.add((scene + rng.normal(0, 1, scene.shape)).clip(0, 255).astype(np.uint8))
    first, second, _ = index.find(np.arange(3000))
    assert len(np.union1d(first, second)) == 3000
    assert len(first) <= 3000 * MAX_COMPARED < 3000 * 2999 / 2


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=12))
def test_pairs_are_those_of_comparing_all_whatever_the_images(
    images: list[tuple[int, int]],
) -> None:
    """Each image is a window of a photograph, with more or less noise."""
    rng = np.random.default_rng(0)
    noisy = [
        (sketch(windows()[7 * window]) + rng.normal(0, 3 * noise, (32, 32)))
        .clip(0, 255)
        .astype(np.uint8)
        for window, noise in images
    ]
    assert pairs(noisy) == by_comparing_all(noisy)
