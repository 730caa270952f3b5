import threading
from dataclasses import dataclass, field

import pytest

from crossfold.data import read_ahead as module
from crossfold.data.read_ahead import read_ahead

PATHS = [f"{number:02}" for number in range(40)]


@dataclass
class Source:
    """Files of one KiB, which can be held back; the test of remotes has real ones."""

    name: str = "data"
    reads: list[str] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)

    def read(self, path: str) -> bytes:
        self.reads.append(path)
        assert self.open.wait(10)
        if path == "13":
            raise OSError(5, "it is missing")
        return path.encode() * 512

    def require_whole(self) -> None:
        pass


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
        while len(source.reads) < 9:
            pass
        source.open.set()
        first.join()
    assert sorted(source.reads)[:9] == PATHS[:9]


def test_files_that_wait_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_BYTES", 1500)
    source = Source()
    source.open.set()
    with read_ahead(source, PATHS) as ahead:
        ahead.read("00")
        while not all(future.done() for future in ahead._ahead.values()):  # type: ignore[attr-defined]
            pass
        before = len(source.reads)
        ahead.read("00")
        ahead.read("00")
        assert len(source.reads) == before + 2  # none ahead
