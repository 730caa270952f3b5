"""Read images as clients of the registered model send them: base64, bytes, or a path."""

import base64
import os
import re
from pathlib import Path

from crossfold.imaging.decoding import BadImage, read_image, refuse_large

# Environment variable: the only folder that the model may open files below.
IMAGE_ROOT = "CROSSFOLD_IMAGE_ROOT"
# MLflow sets this variable in its scoring server (mlflow.environment_variables). The model's
# requirements pin MLflow, so the tests cover the name.
SERVING = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"
# https://www.rfc-editor.org/rfc/rfc2397 and https://www.rfc-editor.org/rfc/rfc4648#section-5
_DATA_URL = re.compile(r"^data:[^,]*;base64,", re.IGNORECASE)
_FROM_URL_SAFE = str.maketrans("-_", "+/")


def read_encoded(image: object) -> bytes:
    """Decode an image that is sent as base64 or bytes, or read the file that a path names.

    Raises:
        BadImage: it is none of them, is too large, or is a path that may not be opened here.
        OSError: the file cannot be read.
    """
    if isinstance(image, bytes):
        refuse_large(len(image))
        return image
    if not isinstance(image, str):
        raise BadImage(f"an image is bytes, base64 or a path, not {type(image).__name__}")
    if path := _allowed_file(image):
        return read_image(path)
    refuse_large(len(image) * 3 // 4)
    try:
        return _from_base64(image)
    except ValueError:
        raise BadImage(f"neither {_file()} nor an image as base64") from None


def _from_base64(text: str) -> bytes:
    """Decode base64 in any common form: wrapped, URL-safe, unpadded, or as a data: URL.

    Raises:
        ValueError: the text is not base64.
    """
    encoded = _DATA_URL.sub("", "".join(text.split()), count=1)
    encoded = encoded.translate(_FROM_URL_SAFE).rstrip("=")
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)


def _allowed_file(name: str) -> str | None:
    """Resolve the path of an existing file that may be opened; None for any other name.

    The result doesn't reveal whether a forbidden file exists.
    """
    root = os.environ.get(IMAGE_ROOT)
    if not root and os.environ.get(SERVING):
        return None
    path = os.path.join(root or "", name)  # noqa: PTH118
    # Not Path.is_file, which raises for a name that is too long: most names here are base64.
    if not os.path.isfile(path):  # noqa: PTH113
        return None
    resolved = os.path.realpath(path)
    return resolved if not root or Path(resolved).is_relative_to(os.path.realpath(root)) else None


def _file() -> str:
    """Describe in words the files that a path may name here, for an error message."""
    if os.environ.get(IMAGE_ROOT):
        return f"a file below {IMAGE_ROOT}"  # without its path: a server's clients read this
    if os.environ.get(SERVING):
        return f"a file that may be opened ({IMAGE_ROOT} names no folder)"
    return "a file that is here"
