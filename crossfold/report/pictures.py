"""Collect the images for the report: samples of each class, explained ones and leaks."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from crossfold.data.examination.findings import DataFacts
from crossfold.data.examples import TEST, TRAIN, Examples
from crossfold.diagnosis.findings import Diagnosis
from crossfold.imaging import decoding
from crossfold.imaging.preprocessing import REDUCING_GAP, SquareGeometry
from crossfold.imaging.thumbnails import as_data_uri, data_uri
from crossfold.records import ActivationMap
from crossfold.step.concurrency import in_order, num_cores

from .overlay import overlay

MAX_SAMPLES_OF_CLASS = 5
MAX_SAMPLES = 60
SAMPLE_SIDE = 64  # pixels; twice the size on the page, for high-resolution screens
TESTED_SIDE = 128
MAX_DIAGNOSED = 24  # label issues, and as many outliers


@dataclass(frozen=True)
class DataSummary:
    """The data section of the report; pictures are data URIs."""

    counts: dict[str, dict[str, int]]  # split -> class -> images
    data_hash: str
    skipped: tuple[str, ...]  # a line for each image that was left out
    facts: DataFacts
    samples: dict[str, dict[str, str]]  # class -> path -> picture
    tested: dict[str, str]  # path -> picture, of test images
    overlays: dict[str, str]  # path -> picture, their activation maps over their centre squares
    leaks: dict[str, str]  # path -> picture, of the images in `facts.leaks`
    # path -> picture, of training images that the diagnosis names
    diagnosed: dict[str, str] = field(default_factory=dict)


def summarise(
    table: Examples,
    mistakes: Sequence[int],
    maps: Sequence[ActivationMap],
    diagnosis: Diagnosis,
) -> DataSummary:
    """Summarise a run's data for its report.

    `mistakes` are positions in the test split. `maps` may belong to other test images too.
    """
    tested = list(dict.fromkeys([*mistakes, *(one.position for one in maps)]))
    counts = {
        split: Counter(table.classes[label] for label in table.column("label", split))
        for split in (TRAIN, TEST)
    }
    diagnosed = np.flatnonzero(
        np.isin(table.column("path", TRAIN).astype(str), _diagnosed_paths(diagnosis))
    )
    in_leaks = {path for pair in table.facts.leaks for path in pair.paths}
    leaks = np.flatnonzero(np.isin(table.column("path", None).astype(str), list(in_leaks)))
    return DataSummary(
        counts={split: dict(of_class) for split, of_class in counts.items()},
        data_hash=table.data_hash,
        skipped=table.skipped,
        facts=table.facts,
        samples=_samples(table),
        tested=_pictures(table, TEST, tested, TESTED_SIDE),
        overlays=_overlays(table, maps),
        leaks=_pictures(table, None, leaks.tolist(), TESTED_SIDE),
        diagnosed=_pictures(table, TRAIN, diagnosed.tolist(), TESTED_SIDE),
    )


def _diagnosed_paths(diagnosis: Diagnosis) -> list[str]:
    """List the training images that the report shows for the diagnosis."""
    errors, far = diagnosis.label_errors, diagnosis.outliers
    issues = [issue.path for issue in errors.issues] if errors else []
    outliers = [outlier.path for outlier in far.outliers] if far else []
    return issues[:MAX_DIAGNOSED] + outliers[:MAX_DIAGNOSED]


def _samples(table: Examples) -> dict[str, dict[str, str]]:
    """Choose samples of each class, spread over the train split: pictures by class and path."""
    labels, paths = (table.column(name, TRAIN) for name in ("label", "path"))
    chosen: list[int] = []
    for label in range(min(len(table.classes), MAX_SAMPLES)):
        of_class = np.flatnonzero(labels == label)
        number = min(len(of_class), MAX_SAMPLES_OF_CLASS, max(1, MAX_SAMPLES // len(table.classes)))
        chosen += of_class[np.arange(number) * len(of_class) // max(number, 1)].tolist()
    found: dict[str, dict[str, str]] = {}
    for index, picture in zip(chosen, _uris(table, TRAIN, chosen, SAMPLE_SIDE), strict=True):
        found.setdefault(table.classes[labels[index]], {})[paths[index]] = picture
    return found


def _pictures(
    table: Examples, split: str | None, places: Sequence[int], side: int
) -> dict[str, str]:
    paths = table.column("path", split)
    uris = _uris(table, split, places, side)
    return {str(paths[place]): uri for place, uri in zip(places, uris, strict=True)}


def _overlays(table: Examples, maps: Sequence[ActivationMap]) -> dict[str, str]:
    paths = table.column("path", TEST)
    of_position = {one.position: one for one in maps}
    overlays = {}
    for position, image in table.test_files(of_position):
        one = of_position[position]
        geometry = SquareGeometry(TESTED_SIDE, crop=one.crop, reducing_gap=REDUCING_GAP)
        laid = overlay(decoding.square(image, geometry), np.array(one.values, np.float32))
        overlays[str(paths[position])] = as_data_uri(laid)
    return overlays


def _uris(table: Examples, split: str | None, places: Sequence[int], side: int) -> list[str]:
    """Make pictures of images; those whose files the table lacks are their centre squares."""
    images = table.images(split, places)
    return list(in_order(partial(data_uri, side=side), images, num_cores()))
