"""Parse requests to `crossfold serve` in every form of MLflow's scoring protocol.

https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/

Not MLflow's parser: it copies the images into one array as wide as the largest image, and its
errors contain stack traces.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator
from http import HTTPStatus
from itertools import islice
from typing import NamedTuple

# An image may have 256 MiB (decoding.MAX_FILE_SIZE); base64 turns three bytes into four.
MAX_BODY = 256 * 1024**2 // 3 * 4 + 1024**2
MAX_IMAGES = 10_000
# A byte or two of JSON or CSV can become an object of 100 bytes. Base64 has none of these.
_SEPARATORS = (b",", b"[", b"{")
_MAX_SEPARATORS = 10 * MAX_IMAGES
_COLUMN = "image"
_FORMS = ("dataframe_records", "dataframe_split", "inputs", "instances")
_EXAMPLE = '{"dataframe_records": [{"image": "<base64>"}]}'


class RefusedRequestError(Exception):
    """A refusal of a whole request: HTTP status, and a one-line message for the client."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class ScoringRequest(NamedTuple):
    """The column `image` of a request, and the coverage of the sets that it asks for, if any."""

    images: list[object]
    coverage: float | None = None


def read_request(content_type: str, body: bytes) -> ScoringRequest:
    """Read a request, without checking that its images are images.

    Raises:
        RefusedRequestError: the body has no column `image`, no images, unknown params, or another
            format, or too many images.
    """
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    charsets = [text.partition("=")[2].strip('"') for text in parameters if "charset=" in text]
    if kind not in ("application/json", "text/csv") or set(charsets) - {"utf-8", "utf8"}:
        raise RefusedRequestError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "set the header Content-Type to application/json or text/csv, in UTF-8",
        )
    if sum(map(body.count, _SEPARATORS)) > _MAX_SEPARATORS:
        raise _too_large()
    request = _from_json(body) if kind == "application/json" else ScoringRequest(_from_csv(body))
    if not request.images:
        raise _bad_request("the request has no images")
    if len(request.images) > MAX_IMAGES:
        raise _too_large()
    return request


def _too_large() -> RefusedRequestError:
    return RefusedRequestError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"a request may have {MAX_IMAGES} images at most, and few other values: send several",
    )


def _bad_request(message: str) -> RefusedRequestError:
    return RefusedRequestError(HTTPStatus.BAD_REQUEST, message)


def _from_json(body: bytes) -> ScoringRequest:
    try:
        sent = json.loads(body)
    except RecursionError:
        raise _bad_request("the JSON is nested too deeply") from None
    except ValueError as error:
        raise _bad_request(f"the body is not JSON: {error}") from None
    forms = [form for form in _FORMS if isinstance(sent, dict) and form in sent]
    if len(forms) != 1:
        raise _bad_request(f"send one of {', '.join(_FORMS)}, such as {_EXAMPLE}")
    try:
        images = list(_column(sent[forms[0]]))
    except (LookupError, TypeError, ValueError):
        raise _bad_request(f"{forms[0]} has no column {_COLUMN!r}: send {_EXAMPLE}") from None
    return ScoringRequest(images, _coverage(sent.get("params") or {}))


def _coverage(params: object) -> float | None:
    if not isinstance(params, dict) or params.keys() - {"coverage"}:
        raise _bad_request('params: only "coverage" is known, as in {"coverage": 0.95}')
    coverage = params.get("coverage")
    if coverage is None:
        return None
    # JSON's true is an int in Python, but lies outside of the range.
    if not isinstance(coverage, int | float) or not 0 < coverage < 1:
        raise _bad_request("params: coverage is not a number between 0 and 1, such as 0.95")
    return coverage


def _column(table: object) -> Iterator[object]:
    """Yield the images from a table by rows or by columns, or from a list of images.

    Raises:
        LookupError, TypeError, ValueError: `table` has none of these forms.
    """
    match table:
        case {"columns": list(names), "data": list(rows)}:
            place = names.index(_COLUMN)
            yield from (row[place] for row in rows)
        case dict():
            column = table[_COLUMN]
            yield from column if isinstance(column, list) else [column]
        case list():
            for row in table:
                match row:
                    case dict():
                        yield row[_COLUMN]
                    case [image]:
                        yield image
                    case str():
                        yield row
                    case _:
                        raise TypeError
        case _:
            raise TypeError


def _from_csv(body: bytes) -> list[object]:
    csv.field_size_limit(sys.maxsize)
    try:
        lines = io.TextIOWrapper(io.BytesIO(body), "utf-8-sig", newline="")
        table = csv.DictReader(lines, strict=True)
        if _COLUMN not in (table.fieldnames or ()):
            raise _bad_request(f"the first line of the CSV does not name a column {_COLUMN!r}")
        return [row[_COLUMN] for row in islice(table, MAX_IMAGES + 1)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _bad_request(f"the body is not CSV in UTF-8: {error}") from None
