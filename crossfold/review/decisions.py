"""Read the decisions of earlier reviews from the CSV files beside the images."""

from dataclasses import dataclass
from pathlib import Path

from crossfold.data.image_source import FolderSource
from crossfold.data.layouts.corrections import CorrectionFiles, Corrections, read_corrections
from crossfold.data.layouts.data_set import read_uncorrected
from crossfold.errors import UserError
from crossfold.settings import DataSettings

DEFAULT_FILES = ("exclude.csv", "relabel.csv")


@dataclass(frozen=True)
class Decisions:
    """The images before any decision, and the decisions so far.

    Attributes:
        source: the images.
        class_of: the class of each image, by its path, before it was relabelled.
        classes: all classes, sorted.
        exclude: name of the file of excluded images, which may not exist yet.
        relabel: name of the file of relabelled images, which may not exist yet.
        corrections: the content of both.
    """

    source: FolderSource
    class_of: dict[str, str]
    classes: tuple[str, ...]
    exclude: str
    relabel: str
    corrections: Corrections

    def class_now(self, path: str) -> str | None:
        """Look up an image's class after the decisions; None if it is excluded."""
        if path in self.corrections.excluded:
            return None
        return self.corrections.labels.get(path, self.class_of[path])


def read_decisions(folder: Path, settings: DataSettings) -> Decisions:
    """Read the images' classes and the decisions on them.

    Files with the default names count even before params.yaml names them, and files that it names
    may be missing: a person puts them there one after the other.

    Raises:
        UserError: the folder has no classes (see `find_layout`), or the files have faults.
    """
    exclude, relabel = (
        name or default
        for name, default in zip((settings.exclude, settings.relabel), DEFAULT_FILES, strict=True)
    )
    files = CorrectionFiles(*(n if (folder / n).exists() else None for n in (exclude, relabel)))
    source, layout = read_uncorrected(folder, settings.groups, settings.labels, files)
    corrections = read_corrections(files, source, layout)
    if corrections.faults:
        raise UserError("\n\n".join(map(str, corrections.faults)))
    classes = tuple(sorted(layout.files))
    return Decisions(source, layout.classes, classes, exclude, relabel, corrections)
