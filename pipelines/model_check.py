"""Refuse a network or weights that a run could not use, before anything runs."""

from pathlib import Path

from crossfold import data, versions
from crossfold.settings import Settings


def check_model(root: Path, settings: Settings) -> None:
    """Compare params.yaml's model with the files that models.dvc describes.

    What this machine does not know is left to the steps: the list of the files, where only a
    remote elsewhere has it.

    Raises:
        UserError: there is no weights' file of that name.
    """
    files = versions.known_files(root, "models", settings.data.remote)
    if files is not None:
        data.require_weights(settings.model.weights, files)
