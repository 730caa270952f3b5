from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfold.data.splits import NO_FOLD, TEST, TRAIN, SplitSettings, assign

SIZES = {0: 50, 1: 23, 2: 8}


def images(copies: int = 1) -> tuple[list[int], list[str]]:
    """Labels and contents, every content `copies` times, copies far from each other."""
    labels = [label for label, size in SIZES.items() for _ in range(size)]
    hashes = [f"{label}-{index}" for label, size in SIZES.items() for index in range(size)]
    return labels * copies, hashes * copies


def test_holdout_and_folds_are_stratified() -> None:
    labels, hashes = images()
    splits, folds = assign(labels, hashes, SplitSettings(num_folds=5, test_fraction=0.2, seed=0))
    places = Counter(zip(labels, folds, strict=True))
    for label, size in SIZES.items():
        assert places[label, NO_FOLD] == round(0.2 * size)
        in_folds = [places[label, fold] for fold in range(5)]
        assert max(in_folds) - min(in_folds) <= 1
        assert sum(in_folds) == size - round(0.2 * size)
    assert [split == TEST for split in splits] == [fold == NO_FOLD for fold in folds]
    assert set(splits) == {TEST, TRAIN}
    sizes = [folds.count(fold) for fold in range(5)]
    assert max(sizes) - min(sizes) <= 1


def test_every_class_is_in_the_test_split_however_small() -> None:
    labels, hashes = images()
    _, folds = assign(labels, hashes, SplitSettings(num_folds=5, test_fraction=0.01, seed=0))
    assert {label for label, fold in zip(labels, folds, strict=True) if fold == NO_FOLD} == {
        0,
        1,
        2,
    }


@pytest.mark.parametrize("seed", range(20))
def test_copies_are_never_on_both_sides(seed: int) -> None:
    labels, hashes = images(copies=3)
    _, folds = assign(labels, hashes, SplitSettings(num_folds=5, test_fraction=0.2, seed=seed))
    places = set(zip(hashes, folds, strict=True))
    assert len(places) == len(set(hashes))


def test_the_seed_decides_and_the_order_of_images_does_not() -> None:
    labels, hashes = images()

    def places(seed: int, step: int) -> dict[str, int]:
        _, folds = assign(
            labels[::step], hashes[::step], SplitSettings(num_folds=5, test_fraction=0.2, seed=seed)
        )
        return dict(zip(hashes[::step], folds, strict=True))

    assert places(1, 1) == places(1, -1)
    assert places(1, 1) != places(2, 1)


def test_the_assignment_is_the_same_on_every_platform() -> None:
    splits, folds = assign(
        [0] * 6 + [1] * 5,
        [*"abcdef", *"ghijk"],
        SplitSettings(num_folds=3, test_fraction=0.2, seed=7),
    )
    assert folds == [1, 1, -1, 0, 0, 2, 1, 0, 2, -1, 2]
    assert splits.count(TEST) == 2


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[list[int], list[str]]:
    """Labels and contents of 2 to 5 classes, with copies of some images."""
    sizes = draw(st.lists(st.integers(1, 30), min_size=2, max_size=5))
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    contents = [f"{label}-{draw(st.integers(0, 40))}" for label in labels]
    return labels, contents


@given(data_sets(), st.floats(0.01, 0.9), st.integers(2, 10), st.integers(0, 2**32 - 1))
def test_whatever_the_images_no_content_is_on_two_sides_and_their_order_is_no_matter(
    images: tuple[list[int], list[str]], test_fraction: float, num_folds: int, seed: int
) -> None:
    labels, contents = images
    splits, folds = assign(
        labels, contents, SplitSettings(num_folds=num_folds, test_fraction=test_fraction, seed=seed)
    )
    assert len(set(zip(contents, folds, strict=True))) == len(set(contents))
    assert set(folds) <= {NO_FOLD, *range(num_folds)}
    in_test = {label for label, split in zip(labels, splits, strict=True) if split == TEST}
    assert in_test == set(labels)
    reversed_splits = assign(
        labels[::-1],
        contents[::-1],
        SplitSettings(num_folds=num_folds, test_fraction=test_fraction, seed=seed),
    )
    assert (reversed_splits[0][::-1], reversed_splits[1][::-1]) == (splits, folds)
