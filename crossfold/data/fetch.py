"""Pull a version's images, check and split them, write them as one table; pull weights."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crossfold.step.files import replaced_whole
from crossfold.step.progress import report_progress

from . import dvc, splits
from .examples import Example, write_examples
from .folder import examine_images, split_folder
from .image_source import FolderSource
from .layout import read_layout
from .listing import files_below
from .models_folder import copy_weights, find_weights
from .page import write_page
from .splits import TEST, TRAIN
from .square_file import square_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crossfold.imaging.preprocessing import SquareGeometry

    from .findings import PairCounts
    from .folder import FolderReport
    from .image_source import ImageSource
    from .layout import Layout
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
    data_hash: str


def fetch_data(
    *,
    data_pointer: str,
    remote: str,
    settings: splits.SplitSettings,
    geometries: Sequence[SquareGeometry],
    examples: Path,
    data_page: Path,
) -> FetchedData:
    """Pull images through DVC, check and split them, write the table.

    Skipped images and findings that do not prevent training are logged as warnings.

    Args:
        data_pointer: the text of data.dvc.
        remote: the DVC remote's name, see `dvc.pull`.
        settings: the settings of the splits, see `splits.assign`.
        geometries: the geometries of the squares that training takes.
        examples: the table to write, see `crossfold.data.examples`.
        data_page: the page about the data to write, see `crossfold.data.page`.

    Raises:
        UserError: the version cannot be pulled (see `dvc.pull`), or the images cannot be trained
            on (see `split_folder`). Nothing is written then.
        OSError: no space left.
    """
    data_hash = dvc.pointer_hash(data_pointer, "data.dvc")
    with tempfile.TemporaryDirectory(prefix="crossfold-") as scratch:
        workspace = Path(scratch)
        dvc.pull({"data": data_pointer}, remote, workspace)
        source = FolderSource(workspace / "data")
        report = write_table(
            source, read_layout(source.folder), settings, geometries, data_hash, examples
        )
        write_page(data_page, report, source)
    return FetchedData(
        num_images=len(report.paths),
        num_test=report.splits.count(TEST),
        classes=report.classes,
        counts=report.counts,
        skipped=report.skipped,
        near_duplicates=report.count_pairs(),
        data_hash=data_hash,
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
        write_examples(
            examples,
            _rows(source, report, squares),
            classes=report.classes,
            data_hash=data_hash,
            num_folds=settings.num_folds,
            geometries=squares.geometries,
            skipped=report.skipped,
            facts=facts,
        )
    return report


def fetch_weights(*, pointer: str, weights: str, remote: str, weights_file: Path) -> str:
    """Pull a backbone's weights through DVC.

    Args:
        pointer: the file's own pointer (see `dvc.file_pointer`), so that other files under models/
            do not matter; or the text of models.dvc.
        weights: the name of the weights under models/, see `find_weights`.
        remote: the DVC remote's name, see `dvc.pull`.
        weights_file: the copy of the weights to write, always one file.

    Returns:
        DVC's hash of the file, or of models/.

    Raises:
        UserError: the weights cannot be pulled (see `dvc.pull`), or there are none of that name.
            Nothing is written then.
        OSError: no space left.
    """
    models_hash = dvc.pointer_hash(pointer, "models.dvc", of_file=True)
    with tempfile.TemporaryDirectory(prefix="crossfold-") as scratch:
        dvc.pull({"models": pointer}, remote, Path(scratch))
        tensors, config = _find_weights(Path(scratch) / "models", weights)
        with replaced_whole(weights_file) as part:
            copy_weights(tensors, config, part)
    return models_hash


def _find_weights(pulled: Path, name: str) -> tuple[Path, Path | None]:
    if pulled.is_file():
        return pulled, None
    found = find_weights(
        name, [path.relative_to(pulled).as_posix() for path in files_below(pulled)]
    )
    return pulled / found.tensors, pulled / found.config if found.config else None


def _rows(source: ImageSource, report: FolderReport, squares: SquareFile) -> Iterator[Example]:
    """Yield the training images and then the test images, whose files no other step needs."""
    columns = zip(
        report.paths,
        report.labels,
        report.content_hashes,
        report.splits,
        report.folds,
        strict=True,
    )
    for path, label, content_hash, split, fold in sorted(columns, key=lambda row: row[3] == TEST):
        stored = squares.read(path) if split == TRAIN else (None,) * len(squares.geometries)
        image = None if all(square is not None for square in stored) else source.read(path)
        yield Example(path, image, label, content_hash, split, fold, stored)
