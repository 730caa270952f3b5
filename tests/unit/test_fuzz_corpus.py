"""Each kept input of the fuzz targets; `make fuzz` looks for new ones."""

import re
from pathlib import Path

import pytest

from crossfold.imaging import decoding
from tests.fuzz.targets import CORPUS, TARGETS

KEPT = sorted(CORPUS.glob("*/*"))
HUGE = sorted(CORPUS.glob("image/huge.*"))  # headers of 16,383 or 60,000 pixels a side


@pytest.mark.parametrize("name", TARGETS)
def test_each_reader_raises_only_the_errors_that_it_documents(name: str) -> None:
    kept = [path for path in KEPT if path.parent.name == name]
    assert kept
    for path in kept:
        TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("path", HUGE, ids=[path.name for path in HUGE])
def test_a_huge_image_is_refused_before_it_takes_memory(path: Path) -> None:
    data = path.read_bytes()
    before = _peak_since_reset()
    with pytest.raises(decoding.BadImage), decoding.opened(data):
        pass
    assert _peak() - before < 50 * 1024


def _peak_since_reset() -> int:
    """Make this process forget its peak of memory, and return the new one in KiB."""
    Path("/proc/self/clear_refs").write_text("5")  # see proc(5)
    return _peak()


def _peak() -> int:
    (line,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    return int(line)
