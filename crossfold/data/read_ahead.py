"""Read the next images of a source while the present ones are decoded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future

    from .image_source import ImageSource

# A distant remote takes about as long to answer as a processor to decode a photograph. More files
# at a time matter for small ones.
_NUM_FILES = 8
_MAX_BYTES = 2**28


@contextmanager
def read_ahead(source: ImageSource, paths: Iterable[str]) -> Iterator[ImageSource]:
    """Provide a source that reads a few of `paths` ahead, in their order.

    Files that wait take at most 256 MiB, and seven times the largest file. Threads may read any
    path at any time; one that was not read ahead is read at once.
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

    def read(self, path: str) -> bytes:
        with self._lock:
            self._later.pop(path, None)
            ahead = self._ahead.pop(path, None)
            self._fill()
        return ahead.result() if ahead else self._source.read(path)

    def require_whole(self) -> None:
        self._source.require_whole()

    def _fill(self) -> None:
        while self._later and len(self._ahead) < _NUM_FILES and self._waiting() < _MAX_BYTES:
            path, _ = self._later.popitem(last=False)
            self._ahead[path] = self._threads.submit(self._source.read, path)

    def _waiting(self) -> int:
        """Count the bytes of the files that were read and wait."""
        ended = (future for future in self._ahead.values() if future.done())
        return sum(len(future.result()) for future in ended if not future.exception())
