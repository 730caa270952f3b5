"""Leave images out, or give them another label, as the CSV files of a review say."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from .csv_table import CsvTable, faulty_rows, read_csv, repeated_paths, unknown_paths
from .layout import Finding, Layout, first_names

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from crossfold.data.image_source import ImageSource

EXCLUDE_COLUMNS = ("path",)
RELABEL_COLUMNS = ("path", "label")


class CorrectionFiles(NamedTuple):
    """The settings `data.exclude` and `data.relabel`: names of CSV files beside the images."""

    exclude: str | None = None
    relabel: str | None = None

    @property
    def by_setting(self) -> dict[str, str | None]:
        """The files by the names of their settings."""
        return {"data.exclude": self.exclude, "data.relabel": self.relabel}


NO_CORRECTIONS = CorrectionFiles()


@dataclass(frozen=True)
class Corrections:
    """The content of the files.

    Attributes:
        excluded: paths of the images to leave out.
        labels: path -> label, which may be the present one.
        usage: a sentence on each file.
        faults: problems of the files; with any, nothing is applied.
    """

    excluded: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    usage: tuple[str, ...] = ()
    faults: tuple[Finding, ...] = ()


def read_corrections(files: CorrectionFiles, source: ImageSource, layout: Layout) -> Corrections:
    """Read the files that the settings name.

    Args:
        files: the settings.
        source: the folder.
        layout: the classes before any correction.
    """
    exclude, unread = _read(files.exclude, source, EXCLUDE_COLUMNS)
    relabel, also_unread = _read(files.relabel, source, RELABEL_COLUMNS)
    class_of = layout.classes
    labels = {row.path: row.cells["label"] for row in relabel.rows}
    num_changed = sum(class_of.get(path) != label for path, label in labels.items())
    sentences = {
        exclude.place: f"images excluded by {exclude.place}: {len(exclude.rows)}",
        relabel.place: f"images relabelled by {relabel.place}: {num_changed}",
    }
    return Corrections(
        excluded=frozenset(row.path for row in exclude.rows),
        labels=labels,
        usage=tuple(sentence for place, sentence in sentences.items() if place),
        faults=(*unread, *also_unread, *_faults(exclude, relabel, class_of, tuple(layout.files))),
    )


def correct(layout: Layout, corrections: Corrections) -> Layout:
    """Apply corrections to a layout, or add their faults to its faults."""
    if corrections.faults:
        return replace(layout, faults=(*layout.faults, *corrections.faults))
    files: dict[str, list[str]] = {name: [] for name in layout.files}
    for path, name in sorted(layout.classes.items()):
        if path not in corrections.excluded:
            files[corrections.labels.get(path, name)].append(path)
    given_test = layout.given_test - corrections.excluded
    return replace(
        layout,
        files=files,
        faults=(*layout.faults, *_emptied(layout, files, given_test)),
        given_test=given_test,
        usage=(*layout.usage, *corrections.usage),
        excluded=corrections.excluded,
    )


def _read(
    name: str | None, source: ImageSource, columns: Sequence[str]
) -> tuple[CsvTable, tuple[Finding, ...]]:
    """Read a file; without one, or with one that cannot be read, the table is empty."""
    table = read_csv(name, source, columns) if name else CsvTable("", (), ())
    return (CsvTable("", (), ()), (table,)) if isinstance(table, Finding) else (table, ())


def _faults(
    exclude: CsvTable, relabel: CsvTable, images: Collection[str], classes: Sequence[str]
) -> Iterator[Finding]:
    for table in (exclude, relabel):
        yield from unknown_paths(table, images, "images of a class")
        yield from repeated_paths(table)
    excluded, known = {row.path for row in exclude.rows}, set(classes)
    yield from faulty_rows(
        relabel,
        f"are also in {exclude.place}",
        lambda row: row.path in excluded,
        "Keep the line in one of the two files",
    )
    yield from faulty_rows(
        relabel,
        "have a label that is no class",
        lambda row: row.cells["label"] not in known,
        f"Write one of the classes: {first_names(classes)}",
        column="label",
    )


def _emptied(
    layout: Layout, files: Mapping[str, list[str]], given_test: Collection[str]
) -> Iterator[Finding]:
    """Find the classes, and the given test split, of which no image is left."""
    if empty := [name for name, paths in files.items() if layout.files[name] and not paths]:
        yield Finding(
            "no image is left of these classes after data.exclude and data.relabel",
            tuple(empty),
            "Keep images of each class. To drop a class, take its images out of the data",
        )
    if layout.given_test and not given_test:
        yield Finding(
            "data.exclude leaves no image of the given test split: keep images of it, or take the "
            "split out of the data, so that data.test_fraction is held out"
        )
