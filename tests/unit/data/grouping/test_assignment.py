from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from crossfold.data.grouping.assignment import assign_groups
from crossfold.data.splits import NO_FOLD, TEST, TRAIN, SplitSettings

SETTINGS = SplitSettings(num_folds=3, test_fraction=0.25, seed=0)

Images = tuple[list[int], list[str], list[int]]  # labels, contents, groups


def images(*groups: dict[int, int]) -> Images:
    """Images of groups, each with its number of images by class."""
    rows = [
        (label, number)
        for number, counts in enumerate(groups)
        for label, count in counts.items()
        for _ in range(count)
    ]
    labels, numbers = ([row[column] for row in rows] for column in (0, 1))
    return labels, [f"{index:04}" for index in range(len(rows))], numbers


def shares(labels: list[int], folds: list[int]) -> dict[int, dict[int, float]]:
    """The share of each class in each fold, by fold, as percentages."""
    sizes, places = Counter(labels), Counter(zip(folds, labels, strict=True))
    return {
        fold: {label: 100 * places[fold, label] / sizes[label] for label in sizes}
        for fold in sorted(set(folds))
    }


def test_equal_groups_of_one_class_are_stratified_exactly() -> None:
    labels, contents, groups = images(*[{0: 10}] * 8, *[{1: 5}] * 8)
    splits, folds = assign_groups(labels, contents, groups, SETTINGS)
    assert shares(labels, folds) == {fold: {0: 25, 1: 25} for fold in (NO_FOLD, 0, 1, 2)}
    assert [split == TEST for split in splits] == [fold == NO_FOLD for fold in folds]
    assert {*splits} == {TEST, TRAIN}


def test_patients_with_images_of_both_classes_are_stratified() -> None:
    labels, contents, groups = images(*({0: 2 + n % 5, 1: 6 - n % 5} for n in range(40)))
    _, folds = assign_groups(labels, contents, groups, SETTINGS)
    for of_class in shares(labels, folds).values():
        assert all(24 <= share <= 26 for share in of_class.values())


def test_a_group_with_most_of_a_class_is_trained_on() -> None:
    for seed in range(10):
        labels, contents, groups = images({0: 60}, *[{0: 1}] * 40, *[{1: 1}] * 50)
        settings = SplitSettings(num_folds=3, test_fraction=0.2, seed=seed)
        _, folds = assign_groups(labels, contents, groups, settings)
        assert folds[0] != NO_FOLD
        assert shares(labels, folds)[NO_FOLD] == {0: 20, 1: 20}


def test_the_holdout_leaves_a_group_for_every_fold() -> None:
    labels, contents, groups = images({0: 20}, *[{0: 1}] * 3, *[{1: 1}] * 9)
    _, folds = assign_groups(labels, contents, groups, SETTINGS)
    assert {fold for label, fold in zip(labels, folds, strict=True) if label == 0} == {-1, 0, 1, 2}


def test_the_seed_decides_and_the_numbers_of_groups_do_not() -> None:
    labels, contents, groups = images(*[{0: 3}] * 20, *[{1: 2}] * 20)
    _, folds = assign_groups(labels, contents, groups, SETTINGS)
    other_seed = SplitSettings(num_folds=3, test_fraction=0.25, seed=1)
    assert assign_groups(labels, contents, groups, other_seed)[1] != folds
    renamed = [100 - group for group in groups]
    assert assign_groups(labels, contents, renamed, SETTINGS)[1] == folds


def test_the_assignment_is_the_same_on_every_platform() -> None:
    labels, contents, groups = images({0: 3, 1: 1}, *[{0: 2}] * 5, *[{1: 1}] * 5)
    _, folds = assign_groups(labels, contents, groups, SETTINGS)
    assert folds == [0, 0, 0, 0, -1, -1, 2, 2, 1, 1, 1, 1, 2, 2, -1, -1, 1, 1, 2]


@st.composite
def data_sets(draw: st.DrawFn) -> Images:
    """Images of 2 to 4 classes in groups, some of which have several classes."""
    rows = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 25)), min_size=2, max_size=80))
    labels, groups = ([row[column] for row in rows] for column in (0, 1))
    return labels, [f"{index * 7919 % 100:02}" for index in range(len(rows))], groups


@given(data_sets(), st.floats(0.01, 0.9), st.integers(2, 10), st.integers(0, 2**32 - 1))
def test_whatever_the_groups_none_is_divided_and_the_order_is_no_matter(
    images: Images, test_fraction: float, num_folds: int, seed: int
) -> None:
    labels, contents, groups = images
    settings = SplitSettings(num_folds=num_folds, test_fraction=test_fraction, seed=seed)
    splits, folds = assign_groups(labels, contents, groups, settings)
    assert len(set(zip(groups, folds, strict=True))) == len(set(groups))
    assert set(folds) <= {NO_FOLD, *range(num_folds)}
    reversed_splits = assign_groups(labels[::-1], contents[::-1], groups[::-1], settings)
    assert (reversed_splits[0][::-1], reversed_splits[1][::-1]) == (splits, folds)


@given(data_sets(), st.floats(0.01, 0.9), st.integers(2, 5))
def test_a_class_with_enough_groups_of_its_own_is_everywhere(
    images: Images, test_fraction: float, num_folds: int
) -> None:
    labels, contents, groups = images
    of_one_class = [4 * group + label for label, group in zip(labels, groups, strict=True)]
    settings = SplitSettings(num_folds=num_folds, test_fraction=test_fraction)
    _, folds = assign_groups(labels, contents, of_one_class, settings)
    for label in set(labels):
        numbers = {g for k, g in zip(labels, of_one_class, strict=True) if k == label}
        places = {f for k, f in zip(labels, folds, strict=True) if k == label}
        assert len(places) == num_folds + 1 or len(numbers) <= num_folds
