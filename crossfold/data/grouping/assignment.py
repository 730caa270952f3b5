"""Assign whole groups to the holdout and the folds, as stratified as the groups allow."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from crossfold.data.splits import NO_FOLD, draw, with_splits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crossfold.data.splits import SplitSettings


class _Group(NamedTuple):
    number: int
    counts: dict[int, int]  # label -> images, by label
    order: str  # random, by seed and content


def assign_groups(
    labels: Sequence[int],
    content_hashes: Sequence[str],
    groups: Sequence[int],
    settings: SplitSettings,
    *,
    hold_out: bool = True,
) -> tuple[list[str], list[int]]:
    """Assign every image to the test split or to a fold of the train split; divide no group.

    The groups are ordered by SHA-256 of the seed and their smallest content hash, which no
    platform, library version, file name or name of a group changes.

    The holdout takes the groups, in this order, that fit: no class gets more than `test_fraction`
    of its images. Then it takes groups that bring the classes' shares nearer to that. Thus a large
    group is held out only if smaller ones can't fill the holdout. It never takes a class's last
    groups that the folds need.

    The largest of the other groups are dealt first, each to the fold that lacks most of its
    classes, then the one that has the smallest share of them, then the fewest images, then the
    lowest index. This is the greedy idea of scikit-learn's StratifiedGroupKFold.

    Args:
        labels: The class of each image, [N].
        content_hashes: The content hash of each image, [N].
        groups: The number of each image's group, [N]. A group may have several classes.
        settings: The number of folds, the share to hold out, the seed.
        hold_out: Whether to make a test split.

    Returns:
        The split of each image, TRAIN or TEST, and its fold, NO_FOLD in the test split. If a class
        has too few groups, the test split or some fold lacks it.
    """
    ordered = _ordered_groups(labels, content_hashes, groups, settings.seed)
    sizes = Counter(labels)
    held_out = _hold_out(ordered, sizes, settings) if hold_out else {}
    fold_of = dict.fromkeys(held_out, NO_FOLD)
    rest = [group for group in ordered if group.number not in held_out]
    fold_of |= _deal(rest, sizes, settings.num_folds)
    return with_splits([fold_of[group] for group in groups])


def _ordered_groups(
    labels: Sequence[int], content_hashes: Sequence[str], groups: Sequence[int], seed: int
) -> list[_Group]:
    counts: dict[int, Counter[int]] = {}
    smallest: dict[int, str] = {}
    for label, content_hash, group in zip(labels, content_hashes, groups, strict=True):
        counts.setdefault(group, Counter())[label] += 1
        smallest[group] = min(content_hash, smallest.get(group, content_hash))
    ordered = [
        _Group(number, dict(sorted(of_group.items())), draw(seed, smallest[number]))
        for number, of_group in counts.items()
    ]
    return sorted(ordered, key=lambda group: group.order)


def _hold_out(
    ordered: Sequence[_Group], sizes: Counter[int], settings: SplitSettings
) -> dict[int, _Group]:
    """Choose the groups of the test split, by their number."""
    targets = {label: max(1, round(settings.test_fraction * sizes[label])) for label in sizes}
    num_left = Counter(label for group in ordered for label in group.counts)
    in_test: Counter[int] = Counter()
    chosen: dict[int, _Group] = {}

    def fits(group: _Group) -> bool:
        return all(in_test[k] + count <= targets[k] for k, count in group.counts.items())

    def cost(group: _Group) -> float:
        """Compute how much worse the shares of its classes would be with the group."""
        with_it = sum(
            ((in_test[k] + c - targets[k]) / sizes[k]) ** 2 for k, c in group.counts.items()
        )
        return with_it - sum(((in_test[k] - targets[k]) / sizes[k]) ** 2 for k in group.counts)

    def is_spare(group: _Group) -> bool:
        return group.number not in chosen and all(
            num_left[k] > settings.num_folds for k in group.counts
        )

    def take(group: _Group) -> None:
        chosen[group.number] = group
        in_test.update(group.counts)
        num_left.subtract(group.counts.keys())

    helps: tuple[Callable[[_Group], bool], ...] = (fits, lambda group: cost(group) < 0)
    for is_wanted in helps:
        for group in ordered:
            if is_spare(group) and is_wanted(group):
                take(group)
    for label in sorted(sizes, key=lambda label: (num_left[label], label)):
        spare = [group for group in ordered if label in group.counts and is_spare(group)]
        if not in_test[label] and spare:
            take(min(spare, key=cost))
    return chosen


def _deal(groups: Sequence[_Group], sizes: Counter[int], num_folds: int) -> dict[int, int]:
    """Deal groups to the folds, the largest first."""
    in_fold: list[Counter[int]] = [Counter() for _ in range(num_folds)]
    fold_sizes = [0] * num_folds
    fold_of: dict[int, int] = {}
    for group in sorted(
        groups, key=lambda group: (-max(c / sizes[k] for k, c in group.counts.items()), group.order)
    ):
        shares = [(k, count / sizes[k] ** 2) for k, count in group.counts.items()]
        fold = min(
            range(num_folds),
            key=lambda fold: (
                -sum(not in_fold[fold][k] for k in group.counts),
                sum(share * in_fold[fold][k] for k, share in shares),
                fold_sizes[fold],
                fold,
            ),
        )
        fold_of[group.number] = fold
        in_fold[fold].update(group.counts)
        fold_sizes[fold] += sum(group.counts.values())
    return fold_of
