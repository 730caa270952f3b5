"""Read a version's images, check and split them, write them as one table; copy weights."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crossfold.data.examination.folder import examine_images, split_folder
from crossfold.data.examination.groups import group_facts
from crossfold.data.examination.page import write_page
from crossfold.step.files import replaced_whole
from crossfold.step.progress import report_progress
from crossfold.versioning.dvc import parse_pointer
from crossfold.versioning.remote_files import remote_files

from . import splits
from .disk_need import estimate_need, least_need
from .examples import Example, write_examples
from .layouts.corrections import NO_CORRECTIONS
from .layouts.data_set import find_layout
from .layouts.listing import list_paths
from .models_folder import WeightsFiles, copy_weights, find_weights
from .read_ahead import read_ahead
from .splits import TEST, TRAIN
from .square_file import square_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crossfold.data.examination.findings import GroupFacts, PairCounts
    from crossfold.data.examination.folder import FolderReport
    from crossfold.imaging.preprocessing import SquareGeometry

    from .image_source import ImageSource
    from .layouts.corrections import CorrectionFiles
    from .layouts.layout import Layout
    from .square_file import SquareFile

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FetchedData:
    """The result of `fetch_data`: numbers of usable images, and their versions."""

    num_images: int
    num_test: int
    classes: tuple[str, ...]
    counts: dict[str, int]  # of each class
    skipped: tuple[str, ...]  # a line for each image that was left out
    near_duplicates: PairCounts
    groups: GroupFacts | None
    data_hash: str


def fetch_data(
    *,
    data_pointer: str,
    remote: str,
    settings: splits.SplitSettings,
    labels: str | None = None,
    corrections: CorrectionFiles = NO_CORRECTIONS,
    geometries: Sequence[SquareGeometry],
    examples: Path,
    data_page: Path,
) -> FetchedData:
    """Read images from a DVC remote, check and split them, write the table.

    Each image is read when it is examined, and never written to the disk by itself.

    Skipped images and findings that do not prevent training are logged as warnings.

    Args:
        data_pointer: the text of data.dvc.
        remote: the DVC remote's name, see `remote_files`.
        settings: the settings of the splits, see `splits.assign`.
        labels: the setting `data.labels`, see `find_layout`.
        corrections: the settings `data.exclude` and `data.relabel`, see `find_layout`.
        geometries: the geometries of the squares that training takes.
        examples: the table to write, see `crossfold.data.examples`.
        data_page: the page about the data to write, see `crossfold.data.examination.page`.

    Raises:
        UserError: the version cannot be read (see `remote_files`), or the images cannot be trained
            on (see `split_folder`). Nothing is written then, or the table without its page.
        OSError: no space left.
    """
    version = parse_pointer(data_pointer, "data.dvc")
    least_need(version, geometries).require(examples.parent)  # before the remote is asked
    with remote_files(version, "data", remote) as source:
        listing = list_paths(source.hashes)
        layout = find_layout(source, listing, settings.groups, labels, corrections)
        test_share = layout.test_share(settings.test_fraction)
        estimate_need(version, test_share, geometries).require(examples.parent)
        try:
            report = write_table(source, layout, settings, geometries, version.md5, examples)
            write_page(data_page, report, source)
        except OSError:
            source.require_whole()  # an image may vanish after it was examined
            raise
    return FetchedData(
        num_images=len(report.paths),
        num_test=report.splits.count(TEST),
        classes=report.classes,
        counts=report.counts,
        skipped=report.skipped,
        near_duplicates=report.count_pairs(),
        groups=group_facts(report),
        data_hash=version.md5,
    )


def write_table(
    source: ImageSource,
    layout: Layout,
    settings: splits.SplitSettings,
    geometries: Sequence[SquareGeometry],
    data_hash: str,
    examples: Path,
) -> FolderReport:
    """Check and split a source's images, and write the table; see `fetch_data`."""
    with square_file(examples.parent, geometries) as squares:
        examined = examine_images(source, layout, squares=squares, progress=report_progress)
        report = split_folder(examined, settings)
        for line in report.skipped:
            _logger.warning("skipped %s", line)
        facts = report.facts()
        for line in facts.lines():
            _logger.warning("%s", line)
        rows = _rows(report, squares)
        with read_ahead(source, [row.path for row in rows if _has_file(row, squares)]) as ahead:
            write_examples(
                examples,
                (_filled(row, ahead, squares) for row in rows),
                classes=report.classes,
                data_hash=data_hash,
                geometries=squares.geometries,
                skipped=report.skipped,
                facts=facts,
            )
    return report


def fetch_weights(*, pointer: str, weights: str, remote: str, weights_file: Path) -> str:
    """Copy a backbone's weights from a DVC remote.

    Args:
        pointer: the file's own pointer (see `dvc.file_pointer`), so that other files under models/
            do not matter; or the text of models.dvc.
        weights: the name of the weights under models/, see `find_weights`.
        remote: the DVC remote's name, see `remote_files`.
        weights_file: the copy of the weights to write, always one file.

    Returns:
        DVC's hash of the file, or of models/.

    Raises:
        UserError: the weights cannot be read (see `remote_files`), or there are none of that name.
            Nothing is written then.
        OSError: no space left.
    """
    version = parse_pointer(pointer, "models.dvc", of_file=True)
    with remote_files(version, "models", remote) as files, replaced_whole(weights_file) as part:
        found = (
            find_weights(weights, sorted(files.hashes))
            if version.is_folder
            else WeightsFiles(version.path)
        )
        if found.config is None:
            files.copy(found.tensors, part)
        else:
            with tempfile.TemporaryDirectory(prefix="crossfold-") as scratch:
                tensors, config = Path(scratch, "tensors"), Path(scratch, "config")
                files.copy(found.tensors, tensors)
                files.copy(found.config, config)
                copy_weights(tensors, config, part)
    return version.md5


def _rows(report: FolderReport, squares: SquareFile) -> list[Example]:
    """List the training images and then the test images, whose files no other step needs."""
    columns = zip(
        report.paths,
        report.labels,
        report.content_hashes,
        report.splits,
        report.folds,
        report.groups,
        report.files,
        strict=True,
    )
    no_squares = (None,) * len(squares.geometries)
    rows = [
        Example(
            path,
            None,
            label,
            content_hash,
            split,
            fold,
            group,
            **file._asdict(),
            squares=no_squares,
        )
        for path, label, content_hash, split, fold, group, file in columns
    ]
    return sorted(rows, key=lambda row: row.split == TEST)


def _has_file(row: Example, squares: SquareFile) -> bool:
    return row.split == TEST or not squares.has_all(row.path)


def _filled(row: Example, source: ImageSource, squares: SquareFile) -> Example:
    """Add a row's file, or its squares, or both."""
    return row._replace(
        image=source.read(row.path) if _has_file(row, squares) else None,
        squares=squares.read(row.path) if row.split == TRAIN else row.squares,
    )
