"""Read the next images of a source while the present ones are decoded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from crossfold.imaging.decoding import MAX_FILE_SIZE, BadImage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future

    from .image_source import ImageSource

# A distant remote takes about as long to answer as a processor to decode a photograph. More files
# at a time matter for small ones.
_NUM_FILES = 8
_MAX_SIZE = 2**25


@contextmanager
def read_ahead(source: ImageSource, paths: Iterable[str]) -> Iterator[ImageSource]:
    """Provide a source that reads a few of `paths` ahead, in their order.

    Up to 8 files are read or wait, each of at most 32 MiB, so they take at most 256 MiB. A larger
    file is read by the thread that asks for it. (A remote that does not tell sizes has no such
    limit.) Threads may read any path at any time; one that was not read ahead is read at once.
    """
    threads = ThreadPoolExecutor(_NUM_FILES)
    try:
        yield _ReadAhead(source, paths, threads)
    finally:
        threads.shutdown(cancel_futures=True)


class _ReadAhead:
    def __init__(
        self, source: ImageSource, paths: Iterable[str], threads: ThreadPoolExecutor
    ) -> None:
        self._source = source
        self._threads = threads
        self._later = OrderedDict.fromkeys(paths)
        self._ahead: dict[str, Future[bytes]] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._source.name

    def read(self, path: str, at_most: int = MAX_FILE_SIZE) -> bytes:
        with self._lock:
            self._later.pop(path, None)
            ahead = self._ahead.pop(path, None)
            self._fill()
        if ahead:
            with suppress(BadImage):  # too large to wait; any other reason is found again
                return ahead.result()
        return self._source.read(path, at_most)

    def require_whole(self) -> None:
        self._source.require_whole()

    def _fill(self) -> None:
        while self._later and len(self._ahead) < _NUM_FILES:
            path, _ = self._later.popitem(last=False)
            self._ahead[path] = self._threads.submit(self._source.read, path, _MAX_SIZE)
