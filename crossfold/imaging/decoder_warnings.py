"""Collect the warnings that decoders give about a file that they can still decode.

A decoder fills in the missing parts of a damaged picture. libtiff then writes to the terminal,
and Pillow issues Python warnings. Neither names the file, so this module collects them per decoding
thread. libjpeg's are in `libjpeg`.
"""

from __future__ import annotations

import ctypes
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

import PIL._imaging
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

# A damaged fax has a line for each row of pixels.
_MAX_KEPT = 3
_MAX_LENGTH = 200
# `decoding` has its own limit of pixels.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# By default Python shows a warning only once, for the first file.
warnings.filterwarnings("always", category=UserWarning, module=r"PIL\.")
_collecting = threading.local()
_show = warnings.showwarning


@contextmanager
def collected() -> Iterator[list[str]]:
    """Collect all warnings of this thread's decoders in the list, without duplicates."""
    lines: list[str] = []
    _collecting.lines = lines
    try:
        yield lines
    finally:
        del _collecting.lines


def _keep(line: str) -> bool:
    """Add a line to this thread's list, if it has one."""
    lines: list[str] | None = getattr(_collecting, "lines", None)
    if lines is None:
        return False
    line = " ".join(line.split())[:_MAX_LENGTH]
    if len(lines) < _MAX_KEPT and line not in lines:
        lines.append(line)
    return True


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if not _keep(str(message)):
        _show(message, category, filename, lineno, file, line)


warnings.showwarning = _show_warning

# TIFFErrorHandler of libtiff (tiffio.h): module, printf's format, its arguments as a va_list, which
# all common ABIs pass as a pointer that vsnprintf accepts.
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)


def _keep_tiff(module: bytes | None, form: bytes, arguments: int) -> None:
    text = ctypes.create_string_buffer(_MAX_LENGTH)
    ctypes.CDLL(None).vsnprintf(text, ctypes.c_size_t(len(text)), form, ctypes.c_void_p(arguments))
    line = b"%s: %s" % (module or b"libtiff", text.value)
    _keep(line.decode("utf-8", "replace"))


# Kept for as long as libtiff may call it.
_keep_tiff_handler = _Handler(_keep_tiff)


def _handle_tiff() -> None:
    """Replace libtiff's handlers, which write to the terminal, by `_keep_tiff`.

    The symbols come from the libtiff that Pillow's module is linked to. Where it is linked
    statically, as on Windows, its lines still go to the terminal.
    """
    pillow = ctypes.CDLL(PIL._imaging.__file__)
    for name in ("TIFFSetWarningHandler", "TIFFSetErrorHandler"):
        if hasattr(pillow, name):
            function = getattr(pillow, name)
            function.argtypes, function.restype = [_Handler], ctypes.c_void_p
            function(_keep_tiff_handler)


_handle_tiff()
