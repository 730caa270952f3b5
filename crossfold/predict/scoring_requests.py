"""Parse requests to `crossfold serve` in every form of MLflow's scoring protocol.

https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/

Not MLflow's parser: it copies the images into one array as wide as the largest image, and its
errors contain stack traces. This module imports nothing of `crossfold`, see `server`.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator
from http import HTTPStatus

# An image may have 256 MiB (decoding.MAX_FILE_SIZE); base64 turns three bytes into four.
MAX_BODY = 256 * 1024**2 // 3 * 4 + 1024**2
_COLUMN = "image"
_FORMS = ("dataframe_records", "dataframe_split", "inputs", "instances")
_EXAMPLE = '{"dataframe_records": [{"image": "<base64>"}]}'


class RefusedRequestError(Exception):
    """A refusal of a whole request: HTTP status, and a one-line message for the client."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def read_images(content_type: str, body: bytes) -> list[object]:
    """Read the column `image` of a request, without checking that its values are images.

    Raises:
        RefusedRequestError: the body has no such column, no images, or another format.
    """
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    charsets = [text.partition("=")[2].strip('"') for text in parameters if "charset=" in text]
    if kind not in ("application/json", "text/csv") or set(charsets) - {"utf-8", "utf8"}:
        raise RefusedRequestError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "set the header Content-Type to application/json or text/csv, in UTF-8",
        )
    images = _from_json(body) if kind == "application/json" else _from_csv(body)
    if not images:
        raise _bad_request("the request has no images")
    return images


def _bad_request(message: str) -> RefusedRequestError:
    return RefusedRequestError(HTTPStatus.BAD_REQUEST, message)


def _from_json(body: bytes) -> list[object]:
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
        return list(_column(sent[forms[0]]))
    except (LookupError, TypeError, ValueError):
        raise _bad_request(f"{forms[0]} has no column {_COLUMN!r}: send {_EXAMPLE}") from None


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
        table = csv.DictReader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        if _COLUMN not in (table.fieldnames or ()):
            raise _bad_request(f"the first line of the CSV does not name a column {_COLUMN!r}")
        return [row[_COLUMN] for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _bad_request(f"the body is not CSV in UTF-8: {error}") from None
