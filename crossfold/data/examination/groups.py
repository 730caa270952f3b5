"""Give the usable images of a folder their groups, and describe the groups."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from crossfold.data.grouping.joining import join_images
from crossfold.data.grouping.rule import describe
from crossfold.data.layouts.layout import Finding

from .findings import GroupFacts

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from crossfold.data.splits import SplitSettings

    from .folder import FolderReport


def join_groups(report: FolderReport, *, tie_near_duplicates: bool) -> list[int]:
    """Number the group of each usable image: copies and images of one group are joined.

    Near duplicates are joined if asked for.
    """
    keys: list[Sequence[Hashable]] = [report.content_hashes]
    if not report.grouping.faults and report.grouping.rule:
        keys.append(_names(report))
    first, second, _ = report.near_duplicates
    pairs = zip(first.tolist(), second.tolist(), strict=True) if tie_near_duplicates else ()
    return join_images(keys, pairs)


def group_facts(report: FolderReport) -> GroupFacts | None:
    """Describe the groups of a folder that has splits; None if nothing but copies is grouped."""
    rule = report.grouping.rule
    if not report.groups or not (rule or report.tied):
        return None
    names = _names(report) if rule else report.paths
    ((largest, size),) = Counter(report.groups).most_common(1)
    members = sorted({n for n, group in zip(names, report.groups, strict=True) if group == largest})
    return GroupFacts(
        rule=describe(rule) if rule else "",
        named=len(set(names)),
        number=len(set(report.groups)),
        largest=members[0] + (f" with {len(members) - 1} more" if len(members) > 1 else ""),
        largest_size=size,
        tied=report.tied,
    )


def too_few_groups(report: FolderReport, settings: SplitSettings) -> Iterator[Finding]:
    """List the classes of which the holdout or a fold has no group."""
    places: defaultdict[int, set[int]] = defaultdict(set)
    groups: defaultdict[int, set[int]] = defaultdict(set)
    for label, fold, group in zip(report.labels, report.folds, report.groups, strict=True):
        places[label].add(fold)
        groups[label].add(group)
    needed = settings.num_folds + 1
    few: list[str] = []
    shared: list[str] = []  # classes with enough groups
    for label, name in enumerate(report.classes):
        if len(places[label]) < needed:
            line = f"class {name!r}: {report.counts[name]} images in {_count(len(groups[label]))}"
            (few if len(groups[label]) < needed else shared).append(line + _joined(report, label))
    advice = "Add images of other groups to these classes, or lower data.num_folds"
    if settings.tie_near_duplicates:
        advice += ", or set data.tie_near_duplicates to false"
    if few:
        yield Finding(
            "too few groups for the holdout and every fold to have one of each class. With "
            f"params.yaml data.num_folds {settings.num_folds}, a class needs {needed} groups",
            tuple(few),
            advice,
        )
    if shared:
        yield Finding(
            "the groups of these classes also hold other classes, and no split was found that "
            f"gives the holdout and each of {settings.num_folds} folds every class",
            tuple(shared),
            advice,
        )


def _names(report: FolderReport) -> list[str]:
    return [report.grouping.names[path] for path in report.paths]


def _joined(report: FolderReport, label: int) -> str:
    """State how many named groups a class has, if more than joined ones."""
    if not report.grouping.rule:
        return ""
    named, joined = (
        {group for group, of in zip(groups, report.labels, strict=True) if of == label}
        for groups in (_names(report), report.groups)
    )
    if len(named) == len(joined):
        return ""
    by = "copies or near duplicates" if report.tied else "copies of images"
    return f", which {by} join from {len(named)}"


def _count(number: int) -> str:
    return f"{number} group{'' if number == 1 else 's'}"
