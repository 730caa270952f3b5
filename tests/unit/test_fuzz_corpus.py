"""Each kept input of the fuzz targets; `make fuzz` looks for new ones."""

import resource
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
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(decoding.BadImage), decoding.opened(path.read_bytes()):
        pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024  # KiB
