import hashlib
import io
import os
import re
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_image

from crossfold.data.examination.findings import DataFacts, PairCounts, near_duplicates
from crossfold.data.examination.folder import FolderReport, balance, examine_folder, split_folder
from crossfold.data.examples import TEST, TRAIN
from crossfold.data.splits import SplitSettings
from crossfold.errors import UserError

NUM_IMAGES = 8  # of each class
CLASSES = ("cat", "dog", "emu")


def picture(seed: int, file_format: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


def write_images(folder: Path) -> None:
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(NUM_IMAGES):
            (folder / name / f"{index}.png").write_bytes(picture(100 * label + index))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "data")
    return tmp_path / "data"


def check(folder: Path, **changes: Any) -> Any:
    settings = SplitSettings(**{"num_folds": 3, "test_fraction": 0.2} | changes)
    return split_folder(examine_folder(folder), settings)


def problem(folder: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        check(folder, **changes)
    return str(caught.value)


def test_a_good_folder_is_described(folder: Path) -> None:
    (folder / "cat" / "copy.png").write_bytes(picture(0))
    report = check(folder)
    assert report.counts == {"cat": 9, "dog": 8, "emu": 8}
    assert sum(report.count_test().values()) == report.splits.count(TEST) > 0
    assert (len(report.paths), report.num_copies) == (25, 1)
    assert report.sizes.tolist() == [[7, 5]] * 25
    assert report.remarks == {}
    assert report.facts().lines() == ["copies of other images, kept together in every split: 1"]


def test_folders_below_a_class_belong_to_it(folder: Path) -> None:
    (folder / "cat" / "more" / "dog").mkdir(parents=True)
    (folder / "cat" / "more" / "dog" / "8.png").write_bytes(picture(8))
    report = check(folder)
    assert report.counts["cat"] == NUM_IMAGES + 1
    assert report.classes == CLASSES
    assert report.paths == sorted(report.paths)


def test_a_link_to_its_own_folder_adds_no_image(folder: Path) -> None:
    expected = check(folder).paths
    (folder / "dog" / "loop").symlink_to(".")
    assert check(folder).paths == expected


def test_what_a_desktop_leaves_is_passed_over(folder: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", ".hidden.png", ".thumbnails/0.png"):
        (folder / "cat" / name).parent.mkdir(exist_ok=True)
        (folder / "cat" / name).write_bytes(b"?")
    (folder / ".DS_Store").write_bytes(b"?")
    (folder / ".git").mkdir()
    assert check(folder).counts == dict.fromkeys(CLASSES, NUM_IMAGES)


def test_every_unusable_image_is_listed(folder: Path) -> None:
    (folder / "cat" / "empty.png").write_bytes(b"")
    (folder / "dog" / "notes.txt").write_text("a dog")
    (folder / "dog" / "cut.png").write_bytes(picture(1)[:-30])
    (folder / "emu" / "gone.png").symlink_to("nowhere")
    message = problem(folder)
    assert "4 of 28 images" in message
    assert "data/cat/empty.png: the file is empty" in message
    assert "data/dog/notes.txt: corrupt, or not an image" in message
    assert "data/dog/cut.png: corrupt or truncated" in message
    assert "data/emu/gone.png: cannot be read: No such file" in message
    assert "data.max_skipped_fraction (now 0)" in message
    assert "14.29%" in message


def test_a_long_list_is_cut(folder: Path) -> None:
    for index in range(60):
        (folder / "cat" / f"bad{index:02d}.png").write_bytes(b"")
    message = problem(folder)
    assert "60 of 84 images" in message
    assert "bad49.png" in message
    assert "bad50.png" not in message
    assert "... and 10 more" in message


@pytest.mark.parametrize(("allowed", "fine"), [(0.03, False), (0.04, True), (0.2, True)])
def test_a_stated_share_may_be_skipped(folder: Path, allowed: float, fine: bool) -> None:
    (folder / "cat" / "empty.png").write_bytes(b"")  # 1 of 25 images: 4 %
    if not fine:
        assert "empty.png" in problem(folder, max_skipped_fraction=allowed)
        return
    report = check(folder, max_skipped_fraction=allowed)
    assert report.skipped == ("data/cat/empty.png: the file is empty",)
    assert report.counts["cat"] == NUM_IMAGES
    assert "cat/empty.png" not in report.paths


def test_one_image_under_two_classes_is_unusable_in_both(folder: Path) -> None:
    (folder / "dog" / "cat.bmp").write_bytes(picture(0, "BMP"))
    message = problem(folder)
    assert "2 of 25 images" in message
    assert re.search("data/cat/0.png: .*dog/cat.bmp", message)
    assert re.search("data/dog/cat.bmp: .*cat/0.png", message)
    report = check(folder, max_skipped_fraction=0.1)
    assert not {"cat/0.png", "dog/cat.bmp"} & set(report.paths)


@pytest.mark.parametrize("seed", range(8))
def test_copies_are_on_one_side_whatever_their_format(folder: Path, seed: int) -> None:
    for label, name in enumerate(CLASSES):
        for index in range(0, NUM_IMAGES, 2):
            copy = picture(100 * label + index, "BMP")
            (folder / name / f"copy{index}.bmp").write_bytes(copy)
    report = check(folder, seed=seed)
    assert len(report.paths) == 36
    places = set(zip(report.content_hashes, report.folds, strict=True))
    assert len(places) == len(set(report.content_hashes)) == 24
    assert set(report.splits) == {TEST, TRAIN}


def test_an_empty_class_folder_is_refused(folder: Path) -> None:
    (folder / "fox").mkdir()
    (folder / "gnu" / "deep").mkdir(parents=True)
    (folder / "gnu" / ".DS_Store").write_bytes(b"")
    message = problem(folder)
    assert "data/fox" in message
    assert "data/gnu" in message
    assert "data/cat" not in message


def test_too_few_images_are_refused(folder: Path) -> None:
    for index in range(3, NUM_IMAGES):
        (folder / "dog" / f"{index}.png").unlink()
    message = problem(folder)
    assert "class 'dog': 3 images, 3 different" in message
    assert "'cat'" not in message
    assert "4 different images" in message
    assert "data.num_folds 3" in message
    assert "data.test_fraction 0.2" in message
    (folder / "dog" / "3.png").write_bytes(picture(103))
    assert check(folder).counts["dog"] == 4


def test_copies_do_not_make_a_class_large_enough(folder: Path) -> None:
    for index in range(NUM_IMAGES):
        (folder / "dog" / f"{index}.png").write_bytes(picture(index % 3 + 900))
    assert "class 'dog': 8 images, 3 different" in problem(folder)


@pytest.mark.parametrize("test_fraction", [0.05, 0.2, 0.5, 0.7])
@pytest.mark.parametrize("num_folds", [2, 3, 5])
def test_the_number_said_to_be_enough_is(
    tmp_path: Path, num_folds: int, test_fraction: float
) -> None:
    settings = {"num_folds": num_folds, "test_fraction": test_fraction}
    for name in CLASSES[:2]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(picture(len(name) + ord(name[0])))
    enough = int(problem(tmp_path, **settings).split(" different images")[0].split()[-1])
    for label, name in enumerate(CLASSES[:2]):
        for index in range(enough - 1):
            (tmp_path / name / f"{index}.png").write_bytes(picture(1000 * (label + 1) + index))
    problem(tmp_path, **settings)
    for label, name in enumerate(CLASSES[:2]):
        (tmp_path / name / "last.png").write_bytes(picture(1000 * (label + 1) + 999))
    assert check(tmp_path, **settings).counts == dict.fromkeys(CLASSES[:2], enough)


def test_one_class_only_is_refused(folder: Path) -> None:
    shutil.rmtree(folder / "dog")
    shutil.rmtree(folder / "emu")
    assert "'cat'" in problem(folder)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    assert "no images" in problem(tmp_path)
    assert "is not a folder" in problem(tmp_path / "nowhere")


def test_files_beside_the_class_folders_are_refused(folder: Path) -> None:
    (folder / "stray.png").write_bytes(picture(0))
    assert "data/stray.png" in problem(folder)


# What there is to know of usable images


def photo(number: int = 0) -> Image.Image:
    """A window of a photograph, another for each number below 48."""
    column, row = number // 2 % 6, number // 12
    if number % 2:
        return window("flower.jpg", 150 + 60 * column, 60 + 60 * row)
    return window("china.jpg", 100 * column, 350 - 80 * row)


def window(name: str, left: int, top: int) -> Image.Image:
    whole = Image.fromarray(load_sample_image(name))
    return whole.crop((left, top, left + 100, top + 75))


EXIF = Image.Exif()
EXIF[0x0112] = 6


def save(path: Path, image: Image.Image, file_format: str | None = None, **options: Any) -> None:
    image.save(path, file_format, **options)


def deep_png() -> Image.Image:
    return Image.fromarray(np.asarray(photo().convert("L")).astype(np.uint16) * 257)


def see_through() -> Image.Image:
    image = photo().convert("RGBA")
    image.putpixel((3, 3), (0, 0, 0, 0))
    return image


@pytest.mark.parametrize(
    ("name", "image", "options", "kinds"),
    [
        ("plain.jpg", photo(), {}, {}),
        ("plain.JPEG", photo(), {"file_format": "JPEG"}, {}),
        ("opaque.png", photo().convert("RGBA"), {}, {}),
        ("upright.jpg", photo(), {"exif": Image.Exif()}, {}),
        ("two.jpg", photo(), {"file_format": "MPO", "append_images": [photo(1)], "save_all": True},
         {"several": "MPO"}),
        ("wrong.png", photo(), {"file_format": "JPEG"}, {"mislabelled": "JPEG, not PNG"}),
        ("wrong.jpg", photo(), {"file_format": "PNG"}, {"mislabelled": "PNG, not JPEG"}),
        ("unknown.photo", photo(), {"file_format": "PNG"}, {}),
        ("moving.gif", photo(), {"append_images": [photo(1)], "save_all": True},
         {"several": "GIF"}),
        ("moving.webp", photo(), {"append_images": [photo(1)], "save_all": True},
         {"several": "WEBP"}),
        ("moving.png", photo(), {"append_images": [photo(1)], "save_all": True},
         {"several": "PNG"}),
        ("pages.tif", photo(), {"append_images": [photo(1)], "save_all": True},
         {"several": "TIFF"}),
        ("still.gif", photo(), {}, {}),
        ("turned.jpg", photo(), {"exif": EXIF}, {"turned": "75 x 100 pixels"}),
        ("turned.png", photo(), {"exif": EXIF}, {"turned": "75 x 100 pixels"}),
        ("turned.tif", photo(), {"exif": EXIF}, {"turned": "75 x 100 pixels"}),
        ("print.jpg", photo().convert("CMYK"), {}, {"cmyk": "JPEG"}),
        ("grey.jpg", photo().convert("L"), {}, {"grey": "stored as L"}),
        ("grey.bmp", photo().convert("L").convert("RGB"), {}, {"grey": "stored as RGB"}),
        ("hole.png", see_through(), {}, {"transparent": "PNG"}),
        ("deep.png", deep_png(), {}, {"grey": "stored as I;16", "deep": "PNG, values of 16 bits"}),
        ("small.png", photo().resize((40, 30)), {}, {"small": "40 x 30 pixels"}),
        ("long.png", photo().resize((300, 100)), {}, {"long": "300 x 100 pixels"}),
        ("flat.png", Image.new("RGB", (100, 75), "navy"), {}, {"flat": "100 x 75 pixels"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_kind_of_image_has_its_remark(
    tmp_path: Path, name: str, image: Image.Image, options: dict[str, Any], kinds: dict[str, str]
) -> None:
    for other in ("cat", "dog"):
        (tmp_path / other).mkdir()
        save(tmp_path / other / "other.jpg", photo(2 if other == "cat" else 4))
    save(tmp_path / "cat" / name, image, **options)
    report = examine_folder(tmp_path, image_size=64)
    assert report.unusable == {}
    assert report.remarks == {kind: {f"cat/{name}": words} for kind, words in kinds.items()}


def test_a_very_large_image_is_remarked_on(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        photo(ord(name[0]) % 48).save(tmp_path / name / "0.png")
    Image.linear_gradient("L").resize((6000, 6000)).save(tmp_path / "cat" / "poster.jpg")
    report = examine_folder(tmp_path)
    assert report.remarks["large"] == {"cat/poster.jpg": "6000 x 6000 pixels"}


def test_colours_of_16_bits_are_noticed(folder: Path) -> None:
    values = np.asarray(photo()).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in values)  # no filter before each row
    header = struct.pack(">IIBBBBB", 100, 75, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    (folder / "cat" / "deep.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    assert examine_folder(folder).remarks == {"deep": {"cat/deep.png": "PNG, values of 16 bits"}}


@pytest.mark.parametrize(
    ("name", "file_format"), [("0.heic", "HEIF"), ("0.avif", "AVIF"), ("0.jxl", "JXL")]
)
def test_photos_of_a_telephone_are_images_as_others(
    folder: Path, name: str, file_format: str
) -> None:
    (folder / "cat" / name).write_bytes(picture(7, file_format))
    (folder / "cat" / "named.jpg").write_bytes(picture(8, file_format))
    report = check(folder)
    assert report.counts["cat"] == NUM_IMAGES + 2
    assert report.remarks == {"mislabelled": {"cat/named.jpg": f"{file_format}, not JPEG"}}


def test_what_is_no_file_of_a_bounded_size_is_not_read(folder: Path) -> None:
    os.mkfifo(folder / "cat" / "pipe.png")
    (folder / "cat" / "zero.png").symlink_to("/dev/zero")
    with (folder / "dog" / "holiday.mp4").open("wb") as file:
        file.truncate(12 * 2**30)
    message = problem(folder)
    assert "data/cat/pipe.png: a named pipe (FIFO), not a file" in message
    assert "data/cat/zero.png: a device, not a file" in message
    assert f"data/dog/holiday.mp4: too large: {12 * 2**30} bytes" in message


def test_what_a_decoder_complains_of_is_a_remark(folder: Path) -> None:
    path = folder / "cat" / "hole.jpg"
    photo().save(path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 1000] = bytes(1000)
    path.write_bytes(data)
    (found,) = examine_folder(folder).remarks["damaged"].items()
    assert found[0] == "cat/hole.jpg"
    assert "Corrupt JPEG data" in found[1]


def test_what_is_worth_knowing_does_not_change_splits_and_hashes(folder: Path) -> None:
    plain = check(folder)
    moved = folder / "cat" / "0.jpg"
    (folder / "cat" / "0.png").rename(moved)
    named_wrong = check(folder)
    assert named_wrong.remarks == {"mislabelled": {"cat/0.jpg": "PNG, not JPEG"}}
    assert (plain.splits, plain.folds, plain.content_hashes) == (
        named_wrong.splits,
        named_wrong.folds,
        named_wrong.content_hashes,
    )


# Balance


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"cat": 10, "dog": 10}, "The classes are about equally large: 10 to 10 images"),
        ({"cat": 10, "dog": 19}, "The classes are about equally large: 10 to 19 images"),
        ({"cat": 84, "emu": 20, "dog": 30}, "cat has 84 images, emu has 20, a ratio of 4.2 to 1"),
    ],
)
def test_balance_is_told_in_words(counts: dict[str, int], words: str) -> None:
    assert words in balance(counts)


# Near duplicates


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of different photos, 24 each, and near duplicates of three of them."""
    folder = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(("china", "flower")):
        (folder / name).mkdir()
        for index in range(24):
            photo(2 * index + label).save(folder / name / f"{index:02}.png")
    photo(0).save(folder / "china" / "00-again.jpg", quality=60)
    photo(3).resize((60, 45)).save(folder / "flower" / "01-again.png")
    ImageEnhance.Brightness(photo(4)).enhance(0.8).save(folder / "flower" / "02-of-china.png")
    photo(6).save(folder / "china" / "03-copy.bmp")
    return folder


def named(report: FolderReport) -> list[tuple[str, str]]:
    return [pair.paths for pair in report.pairs(100)]


def test_near_duplicates_are_found_and_nothing_else_is(photos: Path) -> None:
    report = examine_folder(photos)
    assert named(report)[0] == ("china/02.png", "flower/02-of-china.png")
    assert set(named(report)) == {
        ("china/00-again.jpg", "china/00.png"),
        ("flower/01-again.png", "flower/01.png"),
        ("china/02.png", "flower/02-of-china.png"),
    }
    counts = report.count_pairs()
    assert (counts.pairs, counts.images, counts.other_class) == (3, 6, 1)
    assert (counts.leaks, counts.leaked, counts.folds) == (0, 0, 0)
    assert report.num_copies == 1


@pytest.mark.parametrize("seed", range(6))
def test_near_duplicates_on_two_sides_of_a_split_are_counted(photos: Path, seed: int) -> None:
    report = check(photos, seed=seed)
    places = {
        path: "test" if split == TEST else f"fold {fold}"
        for path, split, fold in zip(report.paths, report.splits, report.folds, strict=True)
    }
    sides = [{places[path] for path in pair} for pair in named(report)]
    counts = report.count_pairs()
    assert counts.leaks == counts.leaked == sum("test" in s and len(s) == 2 for s in sides)
    assert counts.folds == sum("test" not in s and len(s) == 2 for s in sides)
    assert [pair.divided for pair in report.pairs(100)] == [len(s) == 2 for s in sides]
    facts = report.facts()
    divided = [pair for pair in report.pairs(100) if "test" in pair.places and pair.divided]
    assert {pair.paths for pair in facts.leaks} == {pair.paths for pair in divided}
    assert facts.leaked == tuple(
        sorted(path for pair in divided for path in pair.paths if places[path] == "test")
    )
    assert DataFacts.model_validate_json(facts.model_dump_json()) == facts


def test_near_duplicates_are_told_with_doubt() -> None:
    counts = PairCounts(pairs=3, images=6, other_class=1, leaks=2, leaked=2, folds=1)
    leaks = near_duplicates(counts, num_test=40)[1]
    assert "2 pairs, 2 of 40 test images" in leaks
    assert "may" in leaks
    assert near_duplicates(PairCounts(), 40) == []


def test_the_hash_of_an_image_is_that_of_its_size_and_pixels(photos: Path) -> None:
    assert check(photos).content_hashes == sorted_hashes(photos)


def sorted_hashes(folder: Path) -> list[str]:
    """The hash of each image's size and pixels, written anew from its definition."""
    found = []
    for path in sorted(folder.rglob("*.*"), key=lambda path: path.relative_to(folder).as_posix()):
        image = Image.open(path).convert("RGB")
        size = f"{image.width}x{image.height}:".encode()
        found.append(hashlib.sha256(size + image.tobytes()).hexdigest())
    return found
