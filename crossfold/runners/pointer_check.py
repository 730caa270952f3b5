"""Reject a project whose folders differ from its DVC pointers, before anything runs."""

from pathlib import Path

from crossfold.data import dvc
from crossfold.data.layout import find_misnamed
from crossfold.errors import UserError


def check_pointers(root: Path) -> None:
    """Raise UserError if a pointer is missing, or a folder has changed since `dvc add`."""
    for name in dvc.FOLDERS:
        dvc.read_pointer(root, name)
    try:
        changed = dvc.changed_since_add(root)
    except UnicodeEncodeError:
        found = filter(None, (find_misnamed(root / name) for name in dvc.FOLDERS))
        raise UserError("\n\n".join(map(str, found))) from None
    if changed:
        raise UserError(
            f"{' and '.join(changed)} changed since `dvc add`: run `dvc add {' '.join(changed)}` "
            f"to use the files as they are, or `dvc checkout` to return to those that were added"
        )
