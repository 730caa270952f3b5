"""A folder of labelled images, checked and split, to one table of examples."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crossfold import splits, versions
from crossfold.errors import UserError
from crossfold.examples import Example, write_examples
from crossfold.images import BadImage, decode
from crossfold.progress import report_progress
from crossfold.versions import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FetchedData:
    """What `fetch_data` brought: numbers of usable images, and the versions they come from."""

    num_images: int
    num_test: int
    classes: tuple[str, ...]
    counts: dict[str, int]  # of each class
    skipped: tuple[str, ...]  # a line for each image that was left out
    data_hash: str
    models_hash: str


@dataclass(frozen=True)
class FolderReport:
    """A folder of images that can be trained on; the lists go by image, sorted by path."""

    classes: tuple[str, ...]
    counts: dict[str, int]  # of each class
    paths: list[str]  # below the folder
    labels: list[int]
    content_hashes: list[str]
    splits: list[str]
    folds: list[int]
    skipped: tuple[str, ...]  # a line for each image that was left out

    def __str__(self) -> str:
        lines = [f"{name}: {count} images" for name, count in self.counts.items()]
        num_copies = len(self.paths) - len(set(self.content_hashes))
        lines.append(
            f"{len(self.paths)} images of {len(self.classes)} classes, "
            f"{self.splits.count(splits.TEST)} of them held out for the test"
        )
        if num_copies:
            lines.append(f"{num_copies} are copies of others, kept together in every split")
        if self.skipped:
            lines.append(f"{len(self.skipped)} are skipped:\n{listed(list(self.skipped))}")
        return "\n".join(lines)


def fetch_data(
    *,
    data_pointer: str,
    models_pointer: str,
    remote: str,
    weights: str,
    test_fraction: float,
    num_folds: int,
    seed: int,
    max_skipped_fraction: float,
    examples: Path,
    backbone: Path,
) -> FetchedData:
    """Pull images and weights through DVC, check and split the images, write the table.

    Args:
        data_pointer: the text of data.dvc.
        models_pointer: the text of models.dvc.
        remote: a DVC remote's name, see `versions.pull`.
        weights: a file's name under models/.
        test_fraction: the share of each class that is held out.
        num_folds: the number of folds for the rest.
        seed: decides which image goes where, see `splits.assign`.
        max_skipped_fraction: the share of the images that may be unusable.
        examples: where to write the table, see `crossfold.examples`.
        backbone: where to copy the weights to.

    Raises:
        UserError: the versions cannot be pulled (see `versions.pull`), the images cannot be trained
            on (see `check_folder`), or there is no such weights' file. Nothing is written then.
        OSError: no space left.
    """
    data_hash = versions.pointer_hash(data_pointer, "data.dvc")
    models_hash = versions.pointer_hash(models_pointer, "models.dvc")
    with tempfile.TemporaryDirectory(prefix="crossfold-") as scratch:
        workspace = Path(scratch)
        versions.pull({"data": data_pointer, "models": models_pointer}, remote, workspace)
        weights_file = _find_weights(workspace / "models", weights)
        report = check_folder(
            workspace / "data",
            num_folds=num_folds,
            test_fraction=test_fraction,
            seed=seed,
            max_skipped_fraction=max_skipped_fraction,
            progress=report_progress,
        )
        for line in report.skipped:
            _logger.warning("skipped %s", line)
        write_examples(
            examples,
            _rows(workspace / "data", report),
            classes=report.classes,
            data_hash=data_hash,
            num_folds=num_folds,
            skipped=report.skipped,
        )
        part = backbone.with_name(f"{backbone.name}.part")
        shutil.copyfile(weights_file, part)
        part.replace(backbone)
    return FetchedData(
        num_images=len(report.paths),
        num_test=report.splits.count(splits.TEST),
        classes=report.classes,
        counts=report.counts,
        skipped=report.skipped,
        data_hash=data_hash,
        models_hash=models_hash,
    )


def _find_weights(models: Path, name: str) -> Path:
    files = sorted(path.relative_to(models).as_posix() for path in files_below(models))
    if name not in files:
        raise UserError(
            f"params.yaml model.weights: models.dvc has no file {name!r}; it has "
            f"{', '.join(files)}. Put the file under models/ and `dvc add models`, "
            "or name one of these"
        )
    return models / name


def _rows(folder: Path, report: FolderReport) -> Iterator[Example]:
    columns = zip(
        report.paths,
        report.labels,
        report.content_hashes,
        report.splits,
        report.folds,
        strict=True,
    )
    for path, label, content_hash, split, fold in columns:
        yield Example(path, (folder / path).read_bytes(), label, content_hash, split, fold)


def check_folder(
    folder: Path,
    *,
    num_folds: int,
    test_fraction: float,
    seed: int = 0,
    max_skipped_fraction: float = 0.0,
    progress: Callable[[int, int, str], None] = lambda done, total, unit: None,
) -> FolderReport:
    """Check that a folder with a folder of images per class can be trained on, and split it.

    Files and folders whose name starts with a dot, and Thumbs.db, are passed over; any other file
    counts as an image, however deep it lies below its class.

    Raises:
        UserError: no folder, fewer than two classes, files beside the class folders, a class
            without images or with too few for the holdout and every fold, or unusable images, each
            listed: that cannot be decoded, or that lie under two classes with the same pixels.
    """
    files = _files_by_class(folder)
    paths = sorted(path for of_class in files.values() for path in of_class)
    contents = _contents(folder, paths, progress)
    unusable = {path: found.reason for path, found in contents.items() if found.reason}
    unusable |= _conflicts({path: c.hash for path, c in contents.items() if not c.reason})
    skipped = [f"{folder.name}/{path}: {reason}" for path, reason in sorted(unusable.items())]
    if len(skipped) / len(paths) > max_skipped_fraction:
        raise UserError(_too_many_unusable(skipped, len(paths), max_skipped_fraction))

    classes = tuple(sorted(files))
    paths = [path for path in paths if path not in unusable]
    labels = [classes.index(_class_of(path)) for path in paths]
    hashes = [contents[path].hash for path in paths]
    split_names, folds = splits.assign(
        labels, hashes, test_fraction=test_fraction, num_folds=num_folds, seed=seed
    )
    of_label = Counter(labels)
    report = FolderReport(
        classes=classes,
        counts={name: of_label[label] for label, name in enumerate(classes)},
        paths=paths,
        labels=labels,
        content_hashes=hashes,
        splits=split_names,
        folds=folds,
        skipped=tuple(skipped),
    )
    _check_every_fold_has_every_class(report, num_folds, test_fraction)
    return report


def _class_of(path: str) -> str:
    return path.partition("/")[0]


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder but those that a desktop leaves behind; links are followed."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not is_left_behind(name):
                yield Path(parent, name)


def is_left_behind(name: str) -> bool:
    """Tell by its name a file that a desktop leaves behind."""
    return name.startswith(".") or name == "Thumbs.db"


def _files_by_class(folder: Path) -> dict[str, list[str]]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    files: dict[str, list[str]] = {
        child.name: []
        for child in folder.iterdir()
        if child.is_dir() and not child.name.startswith(".")
    }
    loose = []
    for path in sorted(files_below(folder)):
        relative = path.relative_to(folder).as_posix()
        if "/" in relative:
            files[_class_of(relative)].append(relative)
        else:
            loose.append(f"{folder.name}/{relative}")
    shape = f"images belong in {folder.name}/<class>/"
    if loose:
        raise UserError(f"files that are in no class folder ({shape}):\n{listed(loose)}")
    if not files:
        raise UserError(f"{folder.name}/ has no images: {shape}")
    if len(files) == 1:
        raise UserError(
            f"{folder.name}/ has one class only, {min(files)!r}: a classifier needs two ({shape})"
        )
    empty = sorted(f"{folder.name}/{name}" for name, paths in files.items() if not paths)
    if empty:
        raise UserError(f"class folders without images, fill or remove them:\n{listed(empty)}")
    return files


@dataclass(frozen=True)
class _Content:
    hash: str = ""
    reason: str = ""  # why the image is unusable


def _contents(
    folder: Path, paths: Sequence[str], progress: Callable[[int, int, str], None]
) -> dict[str, _Content]:
    contents = {}
    step = max(1, len(paths) // 100)
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda path: _content(folder / path), paths)
        for done, (path, content) in enumerate(zip(paths, found, strict=True), start=1):
            contents[path] = content
            if done % step == 0:
                progress(done, len(paths), "images")
    return contents


def _content(path: Path) -> _Content:
    """The SHA-256 of an image's size and RGB pixels: the same for copies in other formats."""
    try:
        image = decode(path.read_bytes())
    except BadImage as error:
        return _Content(reason=str(error))
    except OSError as error:
        return _Content(reason=f"cannot be read: {error.strerror}")
    pixels = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    pixels.update(image.tobytes())
    return _Content(hash=pixels.hexdigest())


def _conflicts(hashes: dict[str, str]) -> dict[str, str]:
    """The images whose pixels also lie under another class, and where."""
    copies = defaultdict(list)
    for path, content_hash in hashes.items():
        copies[content_hash].append(path)
    conflicts = {}
    for group in copies.values():
        for path in group:
            other = next((p for p in group if _class_of(p) != _class_of(path)), None)
            if other:
                conflicts[path] = f"the same image is under another class, {other}"
    return conflicts


def _too_many_unusable(lines: list[str], num_images: int, max_skipped_fraction: float) -> str:
    return (
        f"{len(lines)} of {num_images} images cannot be used:\n{listed(lines)}\n"
        "Mend or remove them and `dvc add` the folder, or let params.yaml "
        f"data.max_skipped_fraction (now {max_skipped_fraction:g}) allow to skip "
        f"{len(lines) / num_images:.2%} of the images"
    )


def _check_every_fold_has_every_class(
    report: FolderReport, num_folds: int, test_fraction: float
) -> None:
    places = set(zip(report.labels, report.folds, strict=True))
    lines = []
    for label, name in enumerate(report.classes):
        if any((label, fold) not in places for fold in range(num_folds)):
            hashes = zip(report.labels, report.content_hashes, strict=True)
            num_different = len({content for of, content in hashes if of == label})
            lines.append(f"class {name!r}: {report.counts[name]} images, {num_different} different")
    if lines:
        raise UserError(
            "too few images for the holdout and every fold to have one of each class; "
            f"{_num_needed(num_folds, test_fraction)} different images a class are enough for "
            f"params.yaml data.num_folds {num_folds} and data.test_fraction {test_fraction:g}:\n"
            f"{listed(lines)}\nAdd images to these classes, or lower data.num_folds"
        )


def _num_needed(num_folds: int, test_fraction: float) -> int:
    """The fewest different images of a class that leave one for every fold."""
    needed = num_folds + 1
    while needed - max(1, round(test_fraction * needed)) < num_folds:
        needed += 1
    return needed
