"""Which images a request to `crossfold serve` holds; test_use.py asks a real server."""

import json
from http import HTTPStatus

import pytest

from crossfold.predict.scoring_requests import RefusedRequestError, read_request

JSON = "application/json"


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [{"image": "a"}, {"image": "b", "id": 7}]},
        {"dataframe_split": {"columns": ["id", "image"], "data": [[1, "a"], [2, "b"]]}},
        {"inputs": {"image": ["a", "b"]}},
        {"inputs": ["a", "b"]},
        {"inputs": [{"image": "a"}, {"image": "b"}]},
        {"instances": ["a", "b"]},
        {"instances": [["a"], ["b"]]},
        {"instances": [{"image": "a"}, {"image": "b"}], "params": {}},
        {"instances": {"image": ["a", "b"]}},
    ],
)
def test_every_form_of_the_protocol_is_read(body: dict[str, object]) -> None:
    for content_type in (
        JSON,
        "Application/JSON; charset=UTF-8",
        'application/json;charset="utf8"',
    ):
        assert read_request(content_type, json.dumps(body).encode()).images == ["a", "b"]


def test_sets_are_asked_for_by_their_coverage() -> None:
    assert read_request(JSON, b'{"inputs": ["a"]}').coverage is None
    assert read_request(JSON, b'{"inputs": ["a"], "params": {"coverage": null}}').coverage is None
    asked = read_request(JSON, b'{"inputs": ["a"], "params": {"coverage": 0.95}}')
    assert asked == (["a"], 0.95)


@pytest.mark.parametrize("coverage", ["0", "1", "95", "-0.5", "NaN", "true", '"0.95"', "[0.9]"])
def test_a_coverage_is_a_share(coverage: str) -> None:
    body = f'{{"inputs": ["a"], "params": {{"coverage": {coverage}}}}}'.encode()
    with pytest.raises(RefusedRequestError, match="between 0 and 1") as refused:
        read_request(JSON, body)
    assert refused.value.status is HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize(
    "text",
    ["image\na\nb\n", "\ufeffimage\r\na\r\nb\r\n\r\n", 'id,image\n1,"a"\n2,b'],
)
def test_csv_has_a_column_of_images(text: str) -> None:
    assert read_request("text/csv", text.encode()).images == ["a", "b"]


def test_csv_may_hold_base64_in_lines_and_more_than_pythons_limit() -> None:
    image = "\n".join(["A" * 76] * 3000)
    assert read_request("text/csv; charset=utf-8", f'image\n"{image}"\n'.encode()).images == [image]


def test_one_image_need_not_be_a_list() -> None:
    assert read_request(JSON, b'{"inputs": {"image": "a"}}').images == ["a"]


@pytest.mark.parametrize(
    ("content_type", "body", "status", "said"),
    [
        ("", b"{}", HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "set the header Content-Type"),
        ("image/png", b"", HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "set the header Content-Type"),
        (f"{JSON}; charset=latin-1", b"{}", HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UTF-8"),
        (JSON, b"", HTTPStatus.BAD_REQUEST, "the body is not JSON"),
        (JSON, b"\xff\xfe\xfa", HTTPStatus.BAD_REQUEST, "the body is not JSON"),
        (JSON, b"[" * 100_000, HTTPStatus.BAD_REQUEST, "nested too deeply"),
        (JSON, b'{"inputs":' * 100_000, HTTPStatus.BAD_REQUEST, "nested too deeply"),
        (JSON, b'["a"]', HTTPStatus.BAD_REQUEST, "send one of dataframe_records"),
        (JSON, b'{"image": "a"}', HTTPStatus.BAD_REQUEST, "send one of dataframe_records"),
        (JSON, b'{"inputs": [], "instances": []}', HTTPStatus.BAD_REQUEST, "send one of"),
        (JSON, b'{"inputs": ["a"], "params": {"top_k": 3}}', HTTPStatus.BAD_REQUEST, "coverage"),
        (JSON, b'{"inputs": ["a"], "params": [0.9]}', HTTPStatus.BAD_REQUEST, "coverage"),
        (JSON, b'{"inputs": []}', HTTPStatus.BAD_REQUEST, "has no images"),
        (JSON, b'{"inputs": {"pixels": ["a"]}}', HTTPStatus.BAD_REQUEST, "no column 'image'"),
        (JSON, b'{"inputs": [{"pixels": "a"}]}', HTTPStatus.BAD_REQUEST, "no column 'image'"),
        (JSON, b'{"inputs": [["a", "b"]]}', HTTPStatus.BAD_REQUEST, "no column 'image'"),
        (JSON, b'{"inputs": [1, 2]}', HTTPStatus.BAD_REQUEST, "no column 'image'"),
        (JSON, b'{"inputs": "a"}', HTTPStatus.BAD_REQUEST, "no column 'image'"),
        (
            JSON,
            b'{"dataframe_split": {"columns": ["id", "image"], "data": [[1]]}}',
            HTTPStatus.BAD_REQUEST,
            "no column 'image'",
        ),
        (
            JSON,
            b'{"dataframe_split": {"columns": ["a"], "data": [["a"]]}}',
            HTTPStatus.BAD_REQUEST,
            "no column 'image'",
        ),
        ("text/csv", b"", HTTPStatus.BAD_REQUEST, "does not name a column 'image'"),
        ("text/csv", b"QUJD\n", HTTPStatus.BAD_REQUEST, "does not name a column 'image'"),
        ("text/csv", b"image\n", HTTPStatus.BAD_REQUEST, "has no images"),
        ("text/csv", b"image\n\xff\n", HTTPStatus.BAD_REQUEST, "not CSV in UTF-8"),
        ("text/csv", b'image\n"a\n', HTTPStatus.BAD_REQUEST, "not CSV in UTF-8"),
    ],
)
def test_a_request_without_images_is_refused_in_one_line(
    content_type: str, body: bytes, status: HTTPStatus, said: str
) -> None:
    with pytest.raises(RefusedRequestError) as caught:
        read_request(content_type, body)
    assert caught.value.status == status
    assert said in caught.value.message
    assert "\n" not in caught.value.message
