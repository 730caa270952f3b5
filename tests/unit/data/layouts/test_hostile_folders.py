"""Whatever a folder or its CSV files hold, they are a layout or one error that can be printed."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis
import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from crossfold.data.examination.folder import examine_folder, split_folder
from crossfold.data.layouts.corrections import CorrectionFiles
from crossfold.data.splits import SplitSettings
from crossfold.errors import UserError

SETTINGS = SplitSettings(num_folds=2, test_fraction=0.2, seed=0, max_skipped_fraction=0.5)
QUICK = hypothesis.settings(deadline=None, derandomize=True, max_examples=15)
# Bytes, because a name on Linux need not be UTF-8.
ODD_NAMES = (
    *(b"-rf", b"a\nb", b"caf\xe9", b"\xff", b"~", b"A.png", b"a.png", b"\x1b[2J", b"...", b"train"),
    *("é".encode(), "e\u0301".encode(), "\u202egnp".encode(), b"x" * 255, b"data.csv", b"%s{}"),
)
NAMES = st.sampled_from(ODD_NAMES) | st.text(
    st.characters(exclude_characters="/\0.", codec="utf-8"), min_size=1, max_size=20
).map(str.encode)
KINDS = ("image", "broken", "fifo", "socket", "dangling", "loop", "outside", "folder", "closed")
CELLS = st.text(max_size=6) | st.sampled_from(
    ["cat/0.png", "dog/1.png", "path", "label", '"', "\0"]
)


def _good(folder: Path) -> None:
    for seed, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(10 * seed + number).integers(0, 255, (6, 6, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def _make(path: Path, kind: str) -> None:
    match kind:
        case "image":
            Image.new("RGB", (4, 4)).save(path, format="PNG")
        case "broken":
            path.write_bytes(b"\x89PNG\r\n\x1a\n")
        case "fifo":
            os.mkfifo(path)
        case "socket" if len(bytes(path)) < 100:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(bytes(path))
        case "dangling":
            path.symlink_to("nowhere")
        case "loop":
            path.symlink_to(".")
        case "outside":
            path.symlink_to("/dev/zero")
        case _:
            path.mkdir(0o000 if kind == "closed" else 0o755)


def _examine(
    folder: Path,
    names: Sequence[str] = (),
    labels: str | None = None,
    files: CorrectionFiles | None = None,
) -> None:
    """Examine a folder as `check-data` does; each line must be printable and no name in two."""
    try:
        report = examine_folder(
            folder, labels=labels, corrections=files or CorrectionFiles(), image_size=8
        )
        lines = [*report.skipped, *split_folder(report, SETTINGS).classes]
    except UserError as error:
        assert not any("\n" in name and name in str(error) for name in names)
        lines = str(error).split("\n")
    assert all(line.isprintable() for line in lines)


@QUICK
@example([("\u202egnp".encode(), "image", False)])
@example([(b"a\nb", "image", False), (b"c\nd", "closed", False), (b"e\nf", "folder", True)])
@given(st.lists(st.tuples(NAMES, st.sampled_from(KINDS), st.booleans()), min_size=1, max_size=4))
def test_any_names_and_kinds_of_files(entries: list[tuple[bytes, str, bool]]) -> None:
    with TemporaryDirectory() as scratch:
        folder = Path(scratch, "data")
        _good(folder)
        for name, kind, in_class in entries:
            path = folder / ("cat" if in_class else "") / os.fsdecode(name)
            if not os.path.lexists(path):
                _make(path, kind)
        _examine(folder, [os.fsdecode(name) for name, _, _ in entries])


@QUICK
@given(
    st.lists(st.lists(CELLS, max_size=3).map(",".join), max_size=4).map("\n".join).map(str.encode)
    | st.binary(max_size=20),
    st.sampled_from(
        ["", "path\n", "path,label\n", "path,label,split\n", "\ufeffpath,path,label\n"]
    ),
    st.sampled_from(["labels", "exclude", "relabel"]),
)
def test_any_csv_file(content: bytes, header: str, use: str) -> None:
    with TemporaryDirectory() as scratch:
        folder = Path(scratch, "data")
        _good(folder)
        (folder / "table.csv").write_bytes(header.encode() + content)
        if use == "labels":
            _examine(folder, labels="table.csv")
        else:
            _examine(folder, files=CorrectionFiles(**{use: "table.csv"}))
