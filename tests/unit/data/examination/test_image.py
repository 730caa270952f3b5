"""The one decode that serves the check and the squares, and the file that holds these."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossfold.data.examination.folder import examine_folder
from crossfold.data.examination.image import check_image
from crossfold.data.examples import TEST, TRAIN, Examples
from crossfold.data.fetch import write_table
from crossfold.data.image_source import FolderSource
from crossfold.data.layouts.layout import read_layout
from crossfold.data.splits import SplitSettings
from crossfold.data.square_file import square_file
from crossfold.imaging import decoding
from crossfold.imaging.content_hash import whole_hash
from crossfold.imaging.preprocessing import Preprocessing, SquareGeometry

USUAL = SquareGeometry(224, reducing_gap=2.0)
GEOMETRIES = (
    USUAL,
    SquareGeometry(224, "bicubic", 0.875, 2.0),
    SquareGeometry(96, "bicubic", 1.0, 2.0),
    SquareGeometry(480, "bilinear", 1.0, 2.0),
    SquareGeometry(224),  # of a network that takes whole images
)
# JPEG's decoder gives the check half of them, and other geometries all or a quarter.
WIDTH, HEIGHT = 1000, 920
TURNED = 6  # EXIF's orientation


def photo(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> Image.Image:
    draw = np.random.default_rng(seed)
    small = Image.fromarray(draw.integers(0, 256, (9, 10, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = TURNED
    return exif


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "subsampling": 0}),
        ("JPEG", {"exif": turned()}),
        *((name, {}) for name in ("PNG", "BMP", "PPM", "TIFF", "TGA", "GIF", "WEBP", "AVIF")),
        *((name, {}) for name in ("HEIF", "JXL", "JPEG2000")),
    ],
)
@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (300, 260)])
def test_the_checks_squares_are_those_of_prediction_to_the_last_bit(
    tmp_path: Path, file_format: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    data = encoded(photo(*size), file_format, **options)
    (tmp_path / "image").write_bytes(data)
    with square_file(tmp_path, GEOMETRIES) as squares:
        checked, _ = check_image(FolderSource(tmp_path), "image", None, squares)
        found = squares.read("image")
    assert checked.size == (size[::-1] if "exif" in options else size)
    for geometry, square in zip(GEOMETRIES, found, strict=True):
        if square is None:  # the file is smaller, and is kept
            assert size < (480, 480) and geometry.image_size == 480
        else:
            assert np.array_equal(square, decoding.square(data, geometry))


def test_a_large_jpeg_is_decoded_once_for_check_and_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[tuple[int, int]] = []
    load = decoding._load

    def counting(image: Any, *rest: Any, **options: Any) -> Any:
        decoded.append(image.size)
        return load(image, *rest, **options)

    monkeypatch.setattr(decoding, "_load", counting)
    for number, (file_format, factor) in enumerate({"JPEG": 2, "PNG": 1}.items(), start=1):
        (tmp_path / "image").write_bytes(encoded(photo(), file_format))
        with square_file(tmp_path, [USUAL]) as squares:
            check_image(FolderSource(tmp_path), "image", None, squares)
        assert decoded[number - 1 :] == [(WIDTH // factor, HEIGHT // factor)]


# The content of large JPEGs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of three large JPEGs each."""
    root = tmp_path / "data"
    for label, name in enumerate("ab"):
        (root / name).mkdir(parents=True)
        for number in range(3):
            data = encoded(photo(seed=10 * label + number), "JPEG")
            (root / name / f"{number}.jpg").write_bytes(data)
    return root


def test_a_copy_in_another_format_is_tied_to_a_large_jpeg(folder: Path) -> None:
    before = examine_folder(folder)
    with Image.open(folder / "a/1.jpg") as image:
        image.save(folder / "a/copy.png")
        image.save(folder / "a/again.bmp")
        image.resize((WIDTH - 1, HEIGHT - 1)).save(folder / "a/other.png")
    report = examine_folder(folder)
    content = dict(zip(report.paths, report.content_hashes, strict=True))
    assert content["a/copy.png"] == content["a/again.bmp"] == content["a/1.jpg"]
    assert report.num_copies == 2 and content["a/other.png"] != content["a/1.jpg"]
    assert [content[path] for path in before.paths] == before.content_hashes
    assert [pair.paths for pair in report.pairs(9)] == [("a/1.jpg", "a/other.png")]
    assert set(map(tuple, report.sizes)) == {(WIDTH, HEIGHT), (WIDTH - 1, HEIGHT - 1)}

    (folder / "a/copy.png").rename(folder / "b/copy.png")
    assert examine_folder(folder).unusable.keys() == {"a/1.jpg", "a/again.bmp", "b/copy.png"}


def test_copies_without_contrast_are_tied_too(folder: Path) -> None:
    grey = Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90))
    (folder / "a/flat.jpg").write_bytes(encoded(grey, "JPEG"))
    with Image.open(folder / "a/flat.jpg") as image:
        image.save(folder / "a/flat.png")
    encoded_other = encoded(Image.new("RGB", (WIDTH, HEIGHT), (91, 90, 90)), "PNG")
    (folder / "a/other.png").write_bytes(encoded_other)
    report = examine_folder(folder)
    content = dict(zip(report.paths, report.content_hashes, strict=True))
    assert content["a/flat.png"] == content["a/flat.jpg"] != content["a/other.png"]
    assert report.num_copies == 1


def test_whole_pixels_hash_as_in_any_format(folder: Path) -> None:
    with Image.open(folder / "a/1.jpg") as image:
        assert whole_hash((folder / "a/1.jpg").read_bytes()) == whole_hash(encoded(image, "PNG"))


# The table


def test_training_images_leave_as_squares_and_test_images_as_files(
    folder: Path, tmp_path: Path
) -> None:
    small = encoded(photo(100, 90), "PNG")
    (folder / "b/small.png").write_bytes(small)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
    settings = SplitSettings(num_folds=2, test_fraction=0.2)
    path = tmp_path / "examples"
    write_table(FolderSource(folder), read_layout(folder), settings, [USUAL], "d", path)
    table = Examples(path)
    assert table.geometries == (USUAL,)
    how = Preprocessing(224, reducing_gap=2.0)
    for split in (TRAIN, TEST):
        paths = table.column("path", split).tolist()
        assert paths == sorted(paths)
        kept = dict(zip(paths, table.column("image", split), strict=True))
        wanted = {p: files[p] if split == TEST or p == "b/small.png" else None for p in paths}
        assert kept == wanted
        decoded = [pixels for _, pixels, _ in table.decoded_batches(split, how, 1)]
        expected = [decoding.square(files[p], USUAL) for p in paths]
        assert np.array_equal(np.concatenate(decoded), expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "examples"]


# Memory

LIMIT = 500 * 2**20
PROGRAM = """
import re, sys
from pathlib import Path
from crossfold.data.examination import folder
from crossfold.data.image_source import FolderSource
from crossfold.data.layouts.layout import read_layout
from crossfold.data.square_file import square_file
from crossfold.imaging.preprocessing import SquareGeometry

folder.num_cores = lambda: 20
root = Path(sys.argv[1])
with square_file(root, [SquareGeometry(224, reducing_gap=2.0)]) as squares:
    report = folder.examine_images(FolderSource(root), read_layout(root), squares=squares)
assert len(report.remarks["turned"]) == 20, report
# Not ru_maxrss, which begins with that of the process that started this one.
print(1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]))
"""


def test_turned_photographs_of_24_megapixels_take_little_memory_on_20_threads(
    tmp_path: Path,
) -> None:
    for label, name in enumerate("ab"):
        data = encoded(photo(6000, 4000, label), "JPEG", quality=50, exif=turned())
        (tmp_path / name).mkdir()
        for number in range(10):
            (tmp_path / name / f"{number}.jpg").write_bytes(data)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < LIMIT
