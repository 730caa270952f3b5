"""Keep the promises of a test split that comes with the images."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from crossfold.data import splits
from crossfold.data.grouping.assignment import assign_groups
from crossfold.data.layouts.layout import Finding
from crossfold.data.layouts.listing import escaped
from crossfold.data.splits import NO_FOLD, TEST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crossfold.data.splits import SplitSettings

    from .folder import FolderReport

_CLEAN = (
    "The test score would be too good. Remove one side of each (its file, or its line in the CSV "
    "file of labels), or move both to one side"
)


def assign_around_test(
    report: FolderReport, groups: Sequence[int], settings: SplitSettings, *, grouped: bool
) -> tuple[list[str], list[int]]:
    """Assign every image outside the given test split to a fold.

    Returns:
        The split of each image, and its fold, as `splits.assign`.
    """
    rest = [number for number, path in enumerate(report.paths) if path not in report.given_test]
    labels = [report.labels[number] for number in rest]
    hashes = [report.content_hashes[number] for number in rest]
    if grouped:
        of_rest = [groups[number] for number in rest]
        _, folds_of_rest = assign_groups(labels, hashes, of_rest, settings, hold_out=False)
    else:
        _, folds_of_rest = splits.assign(labels, hashes, settings, hold_out=False)
    folds = [NO_FOLD] * len(report.paths)
    for number, fold in zip(rest, folds_of_rest, strict=True):
        folds[number] = fold
    return splits.with_splits(folds)


def given_test_faults(report: FolderReport, settings: SplitSettings) -> Iterator[Finding]:
    """List what makes a test beside a given test split dishonest or impossible."""
    yield from _classes_missing(report, settings.num_folds)
    yield from _copies(report)
    if report.grouping.rule and not report.grouping.faults:
        yield from _groups(report)
    if settings.tie_near_duplicates:
        yield from _near_duplicates(report)


def _classes_missing(report: FolderReport, num_folds: int) -> Iterator[Finding]:
    """List classes that are in the test split alone, not in it, or too small for the folds."""
    counts: Counter[tuple[int, int]] = Counter(zip(report.labels, report.folds, strict=True))
    untested, untrained, small = [], [], []
    for label, name in enumerate(report.classes):
        in_test = counts[label, NO_FOLD]
        in_folds = [counts[label, fold] for fold in range(num_folds)]
        line = f"class {escaped(name)!r}: {sum(in_folds)} training images, {in_test} test images"
        if not report.num_files[name]:
            continue
        if not any(in_folds):
            untrained.append(line)
        elif not all(in_folds):
            small.append(line)
        if any(in_folds) and not in_test:
            untested.append(line)
    if untrained:
        yield Finding(
            "classes of the test split that training lacks",
            tuple(untrained),
            "No network can learn them: add training images, or remove these classes",
        )
    if untested:
        yield Finding(
            "classes without test images",
            tuple(untested),
            "Nothing can be said about them. Add test images, or remove the test split: then "
            "Crossfold holds out data.test_fraction of each class",
        )
    if small:
        yield Finding(
            "too few training images for every fold to have one of each class. With params.yaml "
            f"data.num_folds {num_folds}, a class needs {num_folds} different images, of different "
            "groups if there are groups",
            tuple(small),
            "Add images to these classes, or lower data.num_folds",
        )


def _copies(report: FolderReport) -> Iterator[Finding]:
    in_training: dict[str, str] = {}
    for path, content, split in zip(
        report.paths, report.content_hashes, report.splits, strict=True
    ):
        if split != TEST:
            in_training.setdefault(content, path)
    pairs = [
        f"{report.name}/{path}: {report.name}/{in_training[content]}"
        for path, content, split in zip(
            report.paths, report.content_hashes, report.splits, strict=True
        )
        if split == TEST and content in in_training
    ]
    if pairs:
        yield Finding(
            f"leak: {len(pairs)} of {report.splits.count(TEST)} test images are copies of "
            "training images",
            tuple(pairs),
            _CLEAN,
        )


def _groups(report: FolderReport) -> Iterator[Finding]:
    sides: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    for path, split in zip(report.paths, report.splits, strict=True):
        sides[report.grouping.names[path]][split == TEST] += 1
    divided = [
        f"{escaped(name)}: {counts[False]} training images, {counts[True]} test images"
        for name, counts in sorted(sides.items())
        if len(counts) > 1
    ]
    if divided:
        yield Finding(
            f"leak: {len(divided)} groups are in the test split and in training",
            tuple(divided),
            "The test score would be too good. Move each group to one side, or remove the test "
            "split: then Crossfold holds out whole groups",
        )


def _near_duplicates(report: FolderReport) -> Iterator[Finding]:
    first, second, _ = report.near_duplicates
    pairs = [
        f"{report.name}/{report.paths[ours]}: {report.name}/{report.paths[theirs]}"
        for ours, theirs in zip(first.tolist(), second.tolist(), strict=True)
        if report.splits[ours] != report.splits[theirs]
    ]
    if pairs:
        yield Finding(
            f"leak: {len(pairs)} pairs of near duplicates are in the test split and in training",
            tuple(pairs),
            f"{_CLEAN}. Or set data.tie_near_duplicates to false: then they are only reported",
        )
