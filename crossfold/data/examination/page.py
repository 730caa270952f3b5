"""Render the data page: counts, samples and findings, as one HTML file."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from crossfold.data.splits import TEST
from crossfold.html.jinja_environment import template_environment
from crossfold.imaging.quality import KINDS
from crossfold.imaging.thumbnails import data_uri
from crossfold.step.concurrency import in_order, num_cores
from crossfold.step.files import replaced_whole

from .findings import groups, near_duplicates
from .folder import balance
from .groups import group_facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from crossfold.data.image_source import ImageSource

    from .folder import FolderReport

NUM_SAMPLES = 6  # of each class
MAX_SAMPLES = 300  # of all classes
NUM_OF_KIND = 6  # pictures of each kind of remark
MIN_UNEVEN = 5  # images; with fewer, a remark lists no classes
NUM_PAIRS = 40
MAX_LISTED = 1000  # lines of each list
_SIDE = 112  # pixels; a high-density screen shows them at half this size
_BOUNDS = (16, 32, 64, 128, 224, 384)


class Picture(NamedTuple):
    """An image on the page; `uri` holds its bytes."""

    path: str
    uri: str


def write_page(path: Path, report: FolderReport, source: ImageSource, problem: str = "") -> None:
    """Write the page about a folder of images; it loads nothing and runs no script.

    Args:
        path: the file to write.
        report: the folder's contents.
        source: the images.
        problem: why the folder cannot be used for training, or "".

    Raises:
        OSError: the page cannot be written.
    """
    text = render(report, source, problem)
    with replaced_whole(path) as part:
        part.write_text(text, encoding="utf-8")


def render(report: FolderReport, source: ImageSource, problem: str = "") -> str:
    """Render the page as HTML."""
    samples, pairs = _samples(report), report.pairs(NUM_PAIRS)
    of_kind = {
        kind: _spread(sorted(found), NUM_OF_KIND) if len(found) < len(report.paths) else []
        for kind, found in report.remarks.items()
    }
    shown = _pictures(
        source,
        [path for paths in (*samples.values(), *of_kind.values()) for path in paths]
        + [path for pair in pairs for path in pair.paths],
    )
    page = template_environment("crossfold.data.examination").get_template("data.html")
    return page.render(
        report=report,
        problem=problem,
        balance=balance(report.counts),
        rows=_class_rows(report),
        num_test=report.splits.count(TEST),
        samples={name: [shown[path] for path in paths] for name, paths in samples.items()},
        remarks=[
            {
                "id": kind,
                "kind": KINDS[kind],
                "found": sorted(found.items())[:MAX_LISTED],
                "count": len(found),
                "classes": _uneven(found, report),
                "pictures": [shown[path] for path in of_kind[kind]],
            }
            for kind, found in report.remarks.items()
        ],
        unusable=report.skipped[:MAX_LISTED],
        copies=_copies(report),
        pair_counts=report.count_pairs(),
        groups=groups(group_facts(report), len(report.paths)),
        near_duplicates=near_duplicates(report.count_pairs(), report.splits.count(TEST)),
        pairs=[(pair, [shown[path] for path in pair.paths]) for pair in pairs],
        size_rows=_size_rows(report),
        max_listed=MAX_LISTED,
    )


def _spread(items: Sequence[str], number: int) -> list[str]:
    """Pick `number` of the items, at equal distances."""
    number = min(number, len(items))
    return [items[i * len(items) // number] for i in range(number)]


def _samples(report: FolderReport) -> dict[str, list[str]]:
    """Pick some images of each class, or of the first classes if there are very many."""
    of_class: dict[str, list[str]] = {name: [] for name in report.classes}
    for path, label in zip(report.paths, report.labels, strict=True):
        of_class[report.classes[label]].append(path)
    number = max(1, min(NUM_SAMPLES, MAX_SAMPLES // len(of_class)))
    some = list(of_class.items())[:MAX_SAMPLES]
    return {name: _spread(paths, number) for name, paths in some if paths}


def _pictures(source: ImageSource, paths: Iterable[str]) -> dict[str, Picture]:
    def picture(path: str) -> Picture:
        return Picture(path, data_uri(source.read(path), _SIDE))

    unique = list(dict.fromkeys(paths))
    return dict(zip(unique, in_order(picture, unique, num_cores()), strict=True))


def _class_rows(report: FolderReport) -> list[dict[str, Any]]:
    most = max(report.counts.values())
    num_test = report.count_test()
    return [
        {
            "name": name,
            "images": count,
            "share": round(100 * count / max(most, 1)),
            "train": count - num_test[name],
            "test": num_test[name],
        }
        for name, count in report.counts.items()
    ]


def _uneven(found: Iterable[str], report: FolderReport) -> str:
    """Describe a remark's counts by class, if it applies to some classes only."""
    labels = dict(zip(report.paths, report.labels, strict=True))
    counts = Counter(report.classes[labels[path]] for path in found)
    if len(counts) == len(report.classes) or counts.total() < MIN_UNEVEN:
        return ""
    first = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]
    more = f", and {len(counts) - len(first)} more" if len(counts) > len(first) else ""
    return ", ".join(f"{name} ({count})" for name, count in first) + more


def _copies(report: FolderReport) -> list[list[str]]:
    """Group the paths of images with the same content."""
    groups: dict[str, list[str]] = {}
    for path, content in zip(report.paths, report.content_hashes, strict=True):
        groups.setdefault(content, []).append(path)
    return [group for group in groups.values() if len(group) > 1]


def _size_rows(report: FolderReport) -> list[tuple[str, int]]:
    """Count the images by the length of their shorter side."""
    edges = [0, *_BOUNDS, 2**31]
    numbers, _ = np.histogram(report.sizes.min(axis=1), edges)
    words = [
        f"below {_BOUNDS[0]}",
        *(f"{low} to {high - 1}" for low, high in itertools.pairwise(_BOUNDS)),
        f"{_BOUNDS[-1]} or more",
    ]
    return [(word, int(number)) for word, number in zip(words, numbers, strict=True) if number]
