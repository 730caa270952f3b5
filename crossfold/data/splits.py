"""Split images into holdout and folds: stratified, seeded, copies on one side only."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .grouping.rule import GroupRule

TRAIN = "train"
TEST = "test"
NO_FOLD = -1


@dataclass(frozen=True)
class SplitSettings:
    """The settings of the splits, and the largest share of unusable images.

    `assign` heeds neither groups nor near duplicates; `grouping.assignment.assign_groups` does.
    """

    num_folds: int
    test_fraction: float  # of each class
    seed: int = 0
    max_skipped_fraction: float = 0.0
    groups: GroupRule | None = None
    tie_near_duplicates: bool = False


def assign(
    labels: Sequence[int],
    content_hashes: Sequence[str],
    settings: SplitSettings,
    *,
    hold_out: bool = True,
) -> tuple[list[str], list[int]]:
    """Assign every image to the test split or to a fold of the train split.

    Images with the same content hash are a group and stay together; all have one label. In each
    class the groups are ordered by SHA-256 of seed and content, which no platform, library version
    or file name changes. The first are the holdout, until it has `test_fraction` of the class and
    at least one image; each other group goes to the fold with the fewest images of the class, then
    the fewest images, then the lowest index. Without `hold_out`, the test split stays empty.

    Returns:
        The split of each image, TRAIN or TEST, and its fold, NO_FOLD in the test split.
    """
    group_sizes = Counter(content_hashes)
    groups_of_class: defaultdict[int, set[str]] = defaultdict(set)
    for label, content_hash in zip(labels, content_hashes, strict=True):
        groups_of_class[label].add(content_hash)

    fold_of_group: dict[str, int] = {}
    fold_sizes = [0] * settings.num_folds
    for _, groups in sorted(groups_of_class.items()):
        class_size = sum(group_sizes[group] for group in groups)
        test_size = max(1, round(settings.test_fraction * class_size)) if hold_out else 0
        num_in_test = 0
        class_fold_sizes = [0] * settings.num_folds
        for group in sorted(groups, key=lambda group: draw(settings.seed, group)):
            if num_in_test < test_size:
                fold_of_group[group] = NO_FOLD
                num_in_test += group_sizes[group]
                continue
            fold = min(
                range(settings.num_folds), key=lambda f: (class_fold_sizes[f], fold_sizes[f], f)
            )
            fold_of_group[group] = fold
            class_fold_sizes[fold] += group_sizes[group]
            fold_sizes[fold] += group_sizes[group]

    return with_splits([fold_of_group[content_hash] for content_hash in content_hashes])


def with_splits(folds: list[int]) -> tuple[list[str], list[int]]:
    """Name the split of each image beside its fold."""
    return [TEST if fold == NO_FOLD else TRAIN for fold in folds], folds


def draw(seed: int, group: str) -> str:
    """Compute the place of a group in the random order of a seed."""
    return hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()
