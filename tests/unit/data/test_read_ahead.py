import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from crossfold.data import read_ahead as module
from crossfold.data.read_ahead import read_ahead
from crossfold.imaging.decoding import MAX_FILE_SIZE, refuse_large

PATHS = [f"{number:02}" for number in range(40)]


@dataclass
class Source:
    """Files of one KiB, which can be held back; the test of remotes has real ones."""

    name: str = "data"
    asked: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)

    def read(self, path: str, at_most: int = MAX_FILE_SIZE) -> bytes:
        self.asked.append(path)
        refuse_large(1024, at_most)
        self.reads.append(path)
        assert self.open.wait(10)
        if path == "13":
            raise OSError(5, "it is missing")
        return path.encode() * 512

    def require_whole(self) -> None:
        pass


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_each_file_is_read_once_and_its_fault_is_kept() -> None:
    source = Source()
    source.open.set()
    with read_ahead(source, PATHS) as ahead:
        for path in PATHS:
            if path == "13":
                with pytest.raises(OSError, match="missing"):
                    ahead.read(path)
            else:
                assert ahead.read(path) == path.encode() * 512
        assert sorted(source.reads) == PATHS
        assert ahead.read("20") == b"20" * 512  # again
    assert source.reads.count("20") == 2


def test_a_few_files_are_read_while_the_first_is_waited_for() -> None:
    source = Source()
    with read_ahead(source, PATHS) as ahead:
        first = threading.Thread(target=ahead.read, args=("00",))
        first.start()
        try:
            wait_for(lambda: len(source.reads) >= 9)
        finally:
            source.open.set()
            first.join()
    assert sorted(source.reads)[:9] == PATHS[:9]


def test_large_files_are_read_only_when_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MAX_SIZE", 1023)
    source = Source()
    source.open.set()
    with read_ahead(source, PATHS) as ahead:
        assert ahead.read("00") == b"00" * 512
        wait_for(lambda: len(source.asked) == 9)
        assert source.reads == ["00"]
        assert ahead.read("01") == b"01" * 512
    assert source.reads == ["00", "01"]
