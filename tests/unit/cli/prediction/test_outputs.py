import csv
import io
import json
import os
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from crossfold.cli.prediction import outputs
from crossfold.cli.prediction.outputs import Format, Row, Shown, format_for, writer
from crossfold.errors import UserError
from crossfold.evaluation.prediction_sets.reference import Answer
from crossfold.predict.model import Prediction

ZOO = ("zoo", "3")
CAT = Row(
    "a/cat.png", Prediction("cat", {"cat": 0.75, "hippopotamus": 0.15, "owl": 0.1}, None, *ZOO)
)
BROKEN = Row("a/broken, or so.png", Prediction(None, {}, "the file is empty", *ZOO))
OWL = Row(
    "owl.png", Prediction("owl", {"cat": 0.125, "hippopotamus": 0.0, "owl": 0.875}, None, *ZOO)
)
ROWS = [CAT, BROKEN, OWL]
COLUMNS = ["path", "label", "probability", "label_2", "probability_2", "error", "model", "version"]


def written(
    kind: Format, rows: list[Row], top_k: int = 1, batch_size: int = 2, sets: bool = False
) -> bytes:
    file = io.BytesIO()
    with writer(kind, file, [row.path for row in rows], Shown(top_k, sets)) as write:
        for start in range(0, len(rows), batch_size):
            write(rows[start : start + batch_size])
    return file.getvalue()


def test_a_table_has_columns_for_people() -> None:
    assert written(Format.TABLE, ROWS).decode().splitlines() == [
        "image                class         probability  model",
        "a/cat.png            cat           0.7500       zoo/3",
        "a/broken, or so.png  the file is empty",
        "owl.png              owl           0.8750       zoo/3",
    ]


def test_lines_have_tabs() -> None:
    assert written(Format.LINES, ROWS, top_k=2).decode().splitlines() == [
        "a/cat.png\tcat\t0.7500\thippopotamus\t0.1500\tzoo/3",
        "a/broken, or so.png\tthe file is empty",
        "owl.png\towl\t0.8750\tcat\t0.1250\tzoo/3",
    ]


def test_csv_has_a_header_and_all_digits() -> None:
    rows = list(csv.reader(io.StringIO(written(Format.CSV, ROWS, top_k=2).decode())))
    assert rows == [
        COLUMNS,
        ["a/cat.png", "cat", "0.75", "hippopotamus", "0.15", "", *ZOO],
        ["a/broken, or so.png", "", "", "", "", "the file is empty", *ZOO],
        ["owl.png", "owl", "0.875", "cat", "0.125", "", *ZOO],
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_json_is_an_array_and_json_lines_are_its_objects(batch_size: int) -> None:
    lines = written(Format.JSONL, ROWS, 2, batch_size).splitlines()
    rows = [json.loads(line) for line in lines]
    assert json.loads(written(Format.JSON, ROWS, 2, batch_size)) == rows
    assert [list(row) for row in rows] == [COLUMNS] * 3
    assert [list(row.values()) for row in rows] == [
        ["a/cat.png", "cat", 0.75, "hippopotamus", 0.15, None, *ZOO],
        ["a/broken, or so.png", None, None, None, None, "the file is empty", *ZOO],
        ["owl.png", "owl", 0.875, "cat", 0.125, None, *ZOO],
    ]


def test_parquet_is_read_by_pandas() -> None:
    frame = pd.read_parquet(io.BytesIO(written(Format.PARQUET, ROWS, top_k=2)))
    assert list(frame.columns) == COLUMNS
    assert frame["path"].tolist() == [row.path for row in ROWS]
    assert frame["probability_2"].tolist()[::2] == [0.15, 0.125]
    assert frame["label"].isna().tolist() == [False, True, False]


def test_parquet_is_written_group_by_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "_ROWS_IN_GROUP", 4)
    file = pq.ParquetFile(io.BytesIO(written(Format.PARQUET, ROWS * 3)))
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [4, 4, 1]


def test_more_classes_than_there_are_leave_columns_empty() -> None:
    (row,) = [json.loads(line) for line in written(Format.JSONL, [CAT], top_k=4).splitlines()]
    assert (row["label_3"], row["label_4"], row["probability_4"]) == ("owl", None, None)


@pytest.mark.parametrize("kind", Format)
def test_a_broken_image_alone_is_written(kind: Format) -> None:
    content = written(kind, [BROKEN], top_k=2)
    if kind is Format.PARQUET:
        content = "".join(pd.read_parquet(io.BytesIO(content))["error"]).encode()
    assert b"the file is empty" in content


def test_a_path_that_is_not_utf8_is_kept_where_the_format_can() -> None:
    row = CAT._replace(path=os.fsdecode(b"a\xff.png"))
    for kind in (Format.LINES, Format.CSV):
        assert b"a\xff.png" in written(kind, [row])
    assert "a�.png" in written(Format.TABLE, [row]).decode()
    assert json.loads(written(Format.JSONL, [row]))["path"] == "a�.png"
    frame = pd.read_parquet(io.BytesIO(written(Format.PARQUET, [row])))
    assert frame["path"].tolist() == ["a�.png"]


def test_a_path_cannot_break_a_line_or_command_a_terminal() -> None:
    row = CAT._replace(path="a\n\tb\x1b[31m.png")
    assert written(Format.LINES, [row]) == "a��b\x1b[31m.png\tcat\t0.7500\tzoo/3\n".encode()
    assert "\x1b" not in written(Format.TABLE, [row]).decode()


@pytest.mark.parametrize(
    ("chosen", "name", "kind"),
    [
        (None, "a.csv", Format.CSV),
        (None, "a.json", Format.JSON),
        (None, "a.JSONL", Format.JSONL),
        (None, "a.b.parquet", Format.PARQUET),
        (Format.CSV, "a.json", Format.CSV),
        (Format.JSON, "a.json", Format.JSON),
        (Format.JSON, "a.jsonl", Format.JSONL),
        (Format.JSON, "a.txt", Format.JSONL),
        (Format.JSONL, "a.json", Format.JSONL),
    ],
)
def test_a_file_has_the_format_that_is_chosen_or_its_names(
    chosen: Format | None, name: str, kind: Format
) -> None:
    assert format_for(chosen, Path(name)) is kind


def test_an_unknown_ending_is_refused() -> None:
    with pytest.raises(UserError, match=r"a\.xlsx: .*--format.*\.parquet"):
        format_for(None, Path("a.xlsx"))


# Prediction sets

SURE = CAT._replace(prediction=CAT.prediction._replace(answer=Answer(("cat",), False)))
TORN = OWL._replace(prediction=OWL.prediction._replace(answer=Answer(("cat", "owl"), None)))
LOST = OWL._replace(path="x", prediction=OWL.prediction._replace(answer=Answer((), True)))
ANSWERED = [SURE, TORN, BROKEN, LOST]


def test_sets_are_columns_before_the_error() -> None:
    text = written(Format.JSONL, ANSWERED, sets=True)
    rows = [json.loads(line) for line in text.splitlines()]
    assert list(rows[0]) == ["path", *COLUMNS[1:3], "decision", "set", "novel", *COLUMNS[5:]]
    assert [(row["decision"], row["set"], row["novel"]) for row in rows] == [
        ("cat", ["cat"], False),
        ("unsure", ["cat", "owl"], None),
        (None, None, None),
        ("unsure", [], True),
    ]
    table = list(csv.DictReader(io.StringIO(written(Format.CSV, ANSWERED, sets=True).decode())))
    assert [(row["set"], row["novel"]) for row in table] == [
        ('["cat"]', "false"),
        ('["cat", "owl"]', ""),
        ("", ""),
        ("[]", "true"),
    ]
    frame = pd.read_parquet(io.BytesIO(written(Format.PARQUET, ANSWERED, sets=True)))
    assert [None if labels is None else list(labels) for labels in frame["set"]] == [
        row["set"] for row in rows
    ]
    assert frame["novel"].tolist() == [False, None, None, True]


def test_sets_are_shown_to_people_after_the_model() -> None:
    assert written(Format.TABLE, ANSWERED, sets=True).decode().splitlines() == [
        "image                class         probability  model  decision      novel    set",
        "a/cat.png            cat           0.7500       zoo/3  cat           no       cat",
        "owl.png              owl           0.8750       zoo/3  unsure        unknown  cat, owl",
        "a/broken, or so.png  the file is empty",
        "x                    owl           0.8750       zoo/3  unsure        yes",
    ]
    *_, last = written(Format.LINES, ANSWERED[:2], sets=True).decode().splitlines()
    assert last == "owl.png\towl\t0.8750\tzoo/3\tunsure\tunknown\tcat, owl"
