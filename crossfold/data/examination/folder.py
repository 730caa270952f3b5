"""Examine a folder of labelled images: contents, faults, splits."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from crossfold.data import splits
from crossfold.data.grouping.assignment import assign_groups
from crossfold.data.grouping.names import NO_GROUPING, Grouping, find_groups
from crossfold.data.layouts.corrections import NO_CORRECTIONS
from crossfold.data.layouts.data_set import read_data_set
from crossfold.data.layouts.layout import Finding, ignored_files
from crossfold.data.read_ahead import read_ahead
from crossfold.data.splits import TEST, SplitSettings
from crossfold.errors import UserError
from crossfold.imaging.near_duplicates import Index, Pairs
from crossfold.imaging.quality import KINDS
from crossfold.step.concurrency import in_order, num_cores

from .copies import tie_copies
from .findings import DataFacts, Pair, PairCounts
from .given_test import assign_around_test, given_test_faults
from .groups import group_facts, join_groups, too_few_groups
from .image import CheckedImage, FileFacts, check_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crossfold.data.grouping.rule import GroupRule
    from crossfold.data.image_source import ImageSource
    from crossfold.data.layouts.corrections import CorrectionFiles
    from crossfold.data.layouts.layout import Layout
    from crossfold.data.square_file import SquareFile

MAX_LEAKS_SHOWN = 12  # pairs in the report
# Different images of a class: for the test split, and for each of two folds.
_FEWEST = 3
IMBALANCED = 2.0  # of the largest class to the smallest


@dataclass(frozen=True)
class FolderReport:
    """The contents of a folder of images; lists are per usable image, sorted by path.

    `splits`, `folds` and `groups` are empty until `split_folder` sets them.
    """

    name: str  # of the folder
    classes: tuple[str, ...]
    counts: dict[str, int]  # of each class, of usable images
    num_files: dict[str, int]  # of each class
    paths: list[str]  # below the folder
    labels: list[int]
    content_hashes: list[str]
    files: list[FileFacts]
    remarks: dict[str, dict[str, str]]  # kind -> path -> words; see `quality.KINDS`
    near_duplicates: Pairs  # as indices into `paths`, one of each content
    unusable: dict[str, str]  # path -> why
    faults: tuple[Finding, ...] = ()  # of the layout
    notes: tuple[Finding, ...] = ()
    ignored: tuple[str, ...] = ()  # hidden files and system files
    image_size: int | None = None  # remarks name images smaller than this, in pixels
    grouping: Grouping = NO_GROUPING  # the names of the groups
    usage: tuple[str, ...] = ()  # what was recognised and how it is used, in sentences
    given_test: frozenset[str] = frozenset()  # paths; empty if a test split is held out
    splits: tuple[str, ...] = ()
    folds: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()  # numbers of the groups, joined by copies and other ties
    tied: bool = False  # True if near duplicates tie groups

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Width and height of the file's pixels, upright, [N, 2]."""
        sizes = [(file.width, file.height) for file in self.files]
        return np.array(sizes, np.int64).reshape(-1, 2)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Format a line for each skipped image."""
        return tuple(f"{self.name}/{path}: {why}" for path, why in sorted(self.unusable.items()))

    @property
    def num_copies(self) -> int:
        """Count the images with the same pixels as an earlier one."""
        return len(self.paths) - len(set(self.content_hashes))

    def count_test(self) -> dict[str, int]:
        """Count the test images of each class; 0 before the splits are made."""
        num_test = dict.fromkeys(self.classes, 0)
        for label, split in zip(self.labels, self.splits, strict=bool(self.splits)):
            num_test[self.classes[label]] += split == TEST
        return num_test

    def count_pairs(self) -> PairCounts:
        """Count the near duplicates, and those across splits or classes."""
        first, second, _ = self.near_duplicates
        other_class, leaks, folds = self._divided()
        return PairCounts(
            pairs=len(first),
            images=len(np.unique([first, second])),
            other_class=int(other_class.sum()),
            leaks=int(leaks.sum()),
            leaked=len({i for i in (*first[leaks], *second[leaks]) if self.splits[i] == TEST}),
            folds=int(folds.sum()),
        )

    def facts(self) -> DataFacts:
        """Collect facts about the usable images."""
        first, second, correlation = self.near_duplicates
        _, leaks, _ = self._divided()
        most_alike_first = np.lexsort((-correlation, ~leaks))[: leaks.sum()]
        ignored = [f"ignored: {ignored_files(self.ignored)}"] if self.ignored else []
        return DataFacts(
            num_images=len(self.paths),
            num_test=self.splits.count(TEST),
            usage=self.usage,
            notes=(*map(str, self.notes), *ignored),
            remarks={kind: len(found) for kind, found in self.remarks.items()},
            num_copies=self.num_copies,
            groups=group_facts(self),
            pair_counts=self.count_pairs(),
            leaked=tuple(
                self.paths[i]
                for i in np.unique([first[leaks], second[leaks]])
                if self.splits[i] == TEST
            ),
            leaks=tuple(self._pairs(most_alike_first, MAX_LEAKS_SHOWN)),
        )

    def pairs(self, limit: int) -> list[Pair]:
        """List the near duplicates, the most important first, at most two pairs per image."""
        _, _, correlation = self.near_duplicates
        other_class, leaks, folds = self._divided()
        return self._pairs(np.lexsort((-correlation, ~folds, ~leaks, ~other_class)), limit)

    def _pairs(self, order: NDArray[np.intp], limit: int) -> list[Pair]:
        first, second, correlation = self.near_duplicates
        other_class, _, _ = self._divided()
        shown: set[int] = set()
        pairs: list[Pair] = []
        for number in order:
            ours, theirs = int(first[number]), int(second[number])
            if len(pairs) == limit:
                break
            if not {ours, theirs} <= shown:
                shown |= {ours, theirs}
                pairs.append(
                    Pair(
                        paths=(self.paths[ours], self.paths[theirs]),
                        correlation=float(correlation[number]),
                        other_class=bool(other_class[number]),
                        places=(self._place(ours), self._place(theirs)) if self.splits else (),
                    )
                )
        return pairs

    def _divided(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Tell for each pair whether classes, the holdout or the folds separate it."""
        first, second, _ = self.near_duplicates
        labels = np.array(self.labels, np.int64)
        other_class = labels[first] != labels[second]
        if not self.splits:
            nowhere = np.zeros(len(first), np.bool_)
            return other_class, nowhere, nowhere
        tested = np.array([split == TEST for split in self.splits], np.bool_)
        folds = np.array(self.folds, np.int64)
        leaks = tested[first] != tested[second]
        return other_class, leaks, ~leaks & (folds[first] != folds[second])

    def _place(self, number: int) -> str:
        return "test" if self.splits[number] == TEST else f"fold {self.folds[number]}"


def balance(counts: dict[str, int]) -> str:
    """Describe how evenly the images are spread over the classes."""
    ordered = sorted(counts, key=lambda name: (counts[name], name))
    smallest, largest = ordered[0], ordered[-1]
    fewest, most = counts[smallest], counts[largest]
    if most < IMBALANCED * fewest:
        return f"The classes are about equally large: {fewest} to {most} images"
    return (
        f"The classes are unequal: {largest} has {most} images, {smallest} has {fewest}, "
        f"a ratio of {most / max(fewest, 1):.1f} to 1. Macro F1 counts each class equally, "
        "accuracy does not. To train the classes equally too, set training.class_weights"
    )


def _no_progress(done: int, total: int, unit: str) -> None:
    pass


def examine_folder(
    folder: Path,
    *,
    groups: GroupRule | None = None,
    labels: str | None = None,
    corrections: CorrectionFiles = NO_CORRECTIONS,
    image_size: int | None = None,
    progress: Callable[[int, int, str], None] = _no_progress,
) -> FolderReport:
    """Examine every image of a folder with one subfolder per class, each once.

    Hidden files and system files are ignored. Any other file counts as an image, at any depth below
    its class, unless a CSV file lists the images.

    Args:
        folder: the folder of the class folders.
        groups: how to find an image's group.
        labels: name of the CSV file in the folder that lists the images with their labels.
        corrections: names of the CSV files of excluded and relabelled images.
        image_size: remark on images smaller than this, in pixels.
        progress: called with the images done, all images, and the unit.

    Raises:
        UserError: as `read_data_set`.
    """
    source, layout = read_data_set(folder, groups, labels, corrections)
    return examine_images(source, layout, image_size=image_size, progress=progress)


def examine_images(
    source: ImageSource,
    layout: Layout,
    *,
    image_size: int | None = None,
    squares: SquareFile | None = None,
    progress: Callable[[int, int, str], None] = _no_progress,
) -> FolderReport:
    """Examine every image of a source, each once; see `examine_folder`.

    An image is unusable if it cannot be decoded, or if its pixels are in two classes. The report
    lists faults of the layout, so one call finds these and the unusable images. The squares of all
    images are written, if there is a file for them.

    Raises:
        UserError: the source lacks images, see `ImageSource.require_whole`.
        OSError: no space left for the squares.
    """
    class_of = layout.classes
    paths = sorted(class_of)
    grouping = find_groups(layout.groups, source, paths, layout.class_depth, layout.excluded)
    index = Index()
    with read_ahead(source, paths) as ahead:
        images = _check(ahead, paths, image_size, index, squares, progress)
    source.require_whole()
    unusable = {path: image.reason for path, image in images.items() if image.reason}
    decoded = [path for path in paths if path not in unusable]  # as they are in the index
    pairs = _similar(index, [images[path].hash for path in decoded])
    similar = [(decoded[ours], decoded[theirs]) for ours, theirs in zip(*pairs[:2], strict=True)]
    hash_of = tie_copies(source, {path: images[path] for path in decoded}, similar)
    unusable |= _conflicts(hash_of, class_of)

    classes = tuple(sorted(layout.files))
    usable = [path for path in paths if path not in unusable]
    label_of = {name: label for label, name in enumerate(classes)}
    labels = [label_of[class_of[path]] for path in usable]
    of_label = Counter(labels)
    hashes = [hash_of[path] for path in usable]
    return FolderReport(
        name=source.name,
        classes=classes,
        counts={name: of_label[label] for label, name in enumerate(classes)},
        num_files={name: len(of_class) for name, of_class in layout.files.items()},
        paths=usable,
        labels=labels,
        content_hashes=hashes,
        files=[images[path].file for path in usable],
        remarks=_by_kind({path: images[path].remarks for path in usable}),
        near_duplicates=_near_duplicates(pairs, decoded, usable, hashes),
        unusable=unusable,
        faults=layout.faults,
        notes=layout.notes,
        ignored=layout.ignored,
        image_size=image_size,
        grouping=grouping,
        usage=layout.usage,
        given_test=layout.given_test,
    )


def _by_kind(remarks_of: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    kinds: dict[str, dict[str, str]] = {}
    for kind in KINDS:
        of_kind = {path: words[kind] for path, words in remarks_of.items() if kind in words}
        if of_kind:
            kinds[kind] = of_kind
    return kinds


def _similar(index: Index, hashes: list[str]) -> Pairs:
    """Find near duplicates among images of different hashes: copies always look the same."""
    first_of = {content: number for number, content in reversed([*enumerate(hashes)])}
    return index.find(np.array(sorted(first_of.values()), np.int64))


def _near_duplicates(
    pairs: Pairs, decoded: list[str], usable: list[str], hashes: list[str]
) -> Pairs:
    """Keep the pairs of usable images that are no copies, as indices into `usable`."""
    first_of = {content: number for number, content in reversed([*enumerate(hashes)])}
    position = {usable[number]: number for number in first_of.values()}
    first, second = (
        np.array([position.get(decoded[number], -1) for number in side], np.int64)
        for side in (pairs.first, pairs.second)
    )
    kept = (first >= 0) & (second >= 0)
    return Pairs(first[kept], second[kept], pairs.correlation[kept])


def split_folder(report: FolderReport, settings: SplitSettings) -> FolderReport:
    """Give every usable image its split and fold.

    Raises:
        UserError: the layout or the groups have faults, too many images are unusable, a class has
            too few images or groups for the holdout and every fold, or a given test split shares
            copies or groups with training. The message lists every problem.
    """
    tie = settings.tie_near_duplicates
    groups = join_groups(report, tie_near_duplicates=tie)
    of_images = report.labels, report.content_hashes
    grouped = bool(not report.grouping.faults and (report.grouping.rule or tie))
    if report.given_test:
        split_names, folds = assign_around_test(report, groups, settings, grouped=grouped)
        find_faults = given_test_faults
    elif grouped:
        find_faults = too_few_groups
        split_names, folds = assign_groups(*of_images, groups, settings)
    else:
        find_faults = _classes_too_small
        split_names, folds = splits.assign(*of_images, settings)
    report = replace(
        report, splits=tuple(split_names), folds=tuple(folds), groups=tuple(groups), tied=tie
    )
    faults = (
        *report.faults,
        *report.grouping.faults,
        *_too_many_unusable(report, settings.max_skipped_fraction),
        *find_faults(report, settings),
    )
    if faults:
        raise UserError("\n\n".join(map(str, faults)))
    return report


def _check(
    source: ImageSource,
    paths: Sequence[str],
    image_size: int | None,
    index: Index,
    squares: SquareFile | None,
    progress: Callable[[int, int, str], None],
) -> dict[str, CheckedImage]:
    """Check each image; add the usable ones to the index, in order."""
    images = {}
    step = max(1, len(paths) // 100)

    def check(path: str) -> tuple[CheckedImage, NDArray[np.uint8] | None]:
        return check_image(source, path, image_size, squares)

    found = in_order(check, paths, num_cores())
    for done, (path, (image, sketch)) in enumerate(zip(paths, found, strict=True), start=1):
        images[path] = image
        if sketch is not None:
            index.add(sketch)
        if done % step == 0:
            progress(done, len(paths), "images")
    return images


def _conflicts(hashes: dict[str, str], class_of: dict[str, str]) -> dict[str, str]:
    """List the images whose pixels are also in another class, with their counterpart."""
    copies = defaultdict(list)
    for path, content_hash in hashes.items():
        copies[content_hash].append(path)
    conflicts = {}
    for group in copies.values():
        first = group[0]
        of_another = next((path for path in group if class_of[path] != class_of[first]), None)
        if of_another:
            for path in group:
                other = of_another if class_of[path] == class_of[first] else first
                conflicts[path] = f"the same image is in another class: {other}"
    return conflicts


def _too_many_unusable(report: FolderReport, max_skipped_fraction: float) -> Iterator[Finding]:
    num_unusable = len(report.unusable)
    num_images = len(report.paths) + num_unusable
    share = num_unusable / max(num_images, 1)
    if share > max_skipped_fraction:
        yield Finding(
            f"{num_unusable} of {num_images} images cannot be used",
            report.skipped,
            "Repair or remove them and `dvc add` the folder. To skip them, raise params.yaml "
            f"data.max_skipped_fraction (now {max_skipped_fraction:g}): they are {share:.2%} of "
            "the images",
        )


def _classes_too_small(report: FolderReport, settings: SplitSettings) -> Iterator[Finding]:
    """List the classes with too few images for the holdout and every fold."""
    num_folds, test_fraction = settings.num_folds, settings.test_fraction
    places = set(zip(report.labels, report.folds, strict=True))
    different = set(zip(report.labels, report.content_hashes, strict=True))
    num_different = Counter(label for label, _ in different)
    lines = []
    for label, name in enumerate(report.classes):
        if report.num_files[name] and any((label, fold) not in places for fold in range(num_folds)):
            count = report.counts[name]
            lines.append(f"class {name!r}: {count} images, {num_different[label]} different")
    if lines:
        yield Finding(
            "too few images for the holdout and every fold to have one of each class. With "
            f"params.yaml data.num_folds {num_folds} and data.test_fraction {test_fraction:g}, a "
            f"class needs {_num_needed(num_folds, test_fraction)} different images",
            tuple(lines),
            "Add images to these classes, merge them with others, or leave them out. Lower "
            f"data.num_folds only for classes of at least {_FEWEST}: a class of one image can be "
            "trained on or tested, and one of two leaves a fold without any",
        )


def _num_needed(num_folds: int, test_fraction: float) -> int:
    """Compute the minimum number of different images per class, one for every fold."""
    needed = num_folds + 1
    while needed - max(1, round(test_fraction * needed)) < num_folds:
        needed += 1
    return needed
