"""Recognise a full disk in the errors of any library, and explain it."""

import errno
import os
import shutil
from pathlib import Path

_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
# Libraries wrap the system's error in one of theirs, and SQLite has words of its own.
_TEXTS = (*map(os.strerror, _NUMBERS), "database or disk is full")
# C++'s streams, with which OpenVINO writes graphs, give no reason. With this much space left, it is
# another.
_ANY_REASON = "iostream error"
_ENOUGH_BYTES = 4 * 2**30


def explain_full_disk(error: BaseException, place: Path) -> str:
    """Explain a full disk or an exceeded quota; "" for any other error.

    The error may not tell the path that it is about. `place`, a file or folder that the process
    writes to, then stands for it.
    """
    if _is_a_servers(error) or not _is_full(error, place):
        return ""
    # The second name is a copy's target, on whose disk no space is left.
    path = getattr(error, "filename2", None) or getattr(error, "filename", None) or place
    free = _free_bytes(place) / 1e6
    return (
        f"{path}: no space is left on the disk, or the quota is used up ({free:.1f} MB are "
        "free). Free some space, then run again: no finished step is repeated"
    )


def _is_a_servers(error: BaseException) -> bool:
    """Tell whether a server has reported it, whose disk this is then; MLflow is not imported."""
    return any(kind.__name__ == "RestException" for kind in type(error).__mro__)


def _is_full(error: BaseException, place: Path) -> bool:
    message = str(error)
    if _ANY_REASON in message:
        return _free_bytes(place) < _ENOUGH_BYTES
    return getattr(error, "errno", None) in _NUMBERS or any(text in message for text in _TEXTS)


def _free_bytes(place: Path) -> int:
    return shutil.disk_usage(place if place.exists() else place.parent).free
