"""What is fuzzed: each target reads bytes and raises only the errors that its reader documents.

A target is a function of the bytes. Its name is that of its folder in `corpus`.
"""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from crossfold.data.examples import Examples
from crossfold.errors import UserError
from crossfold.features.features_file import Features
from crossfold.imaging import decoding
from crossfold.imaging.preprocessing import SquareGeometry
from crossfold.network import safetensors_file
from crossfold.predict.scoring_requests import RefusedRequestError, read_request
from crossfold.versioning.dvc import parse_pointer

CORPUS = Path(__file__).parent / "corpus"
_GEOMETRY = SquareGeometry(8)
_folder = tempfile.TemporaryDirectory()  # deleted at the end of the process
_scratch = Path(_folder.name) / "input"


def image(data: bytes) -> None:
    """Decode an image file whole, and to a square."""
    with suppress(decoding.BadImage):
        decoding.square(data, _GEOMETRY)
    with suppress(decoding.BadImage), decoding.opened(data, with_warnings=True) as picture:
        picture.square(_GEOMETRY)


def pointer(data: bytes) -> None:
    """Parse a DVC pointer."""
    with suppress(UserError):
        parsed = parse_pointer(data.decode(errors="surrogateescape"), of_file=True)
        assert isinstance(parsed.path, str)


def request(data: bytes) -> None:
    """Parse a request to the server, as JSON and as CSV."""
    for content_type in ("application/json", "text/csv"):
        with suppress(RefusedRequestError):
            read_request(content_type, data)


def arrays(data: bytes) -> None:
    """Map a file of arrays, and read the first and last element of each."""
    with suppress(UserError):
        found, _ = safetensors_file.read(_written(data))
        for array in found.values():
            array.ravel()[:: max(array.size - 1, 1)].tolist()


def features(data: bytes) -> None:
    """Open a file of features."""
    with suppress(UserError):
        Features(_written(data))


def examples(data: bytes) -> None:
    """Open a table of examples, and read its images; Arrow finds damage in these."""
    with suppress(UserError, OSError, pa.ArrowException):
        for _ in Examples(_written(data)).batches(None, 4):
            pass


def _written(data: bytes) -> Path:
    _scratch.write_bytes(data)
    return _scratch


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (image, pointer, request, arrays, features, examples)
}
