import io
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pylibjxl
import pytest
from PIL import Image, ImageFile, ImageOps

from crossfold.imaging import decoding, picture
from crossfold.imaging.decoding import BadImage, opened, read_image, square
from crossfold.imaging.picture import FILTERS
from crossfold.imaging.preprocessing import SquareGeometry
from crossfold.step.concurrency import Budget, in_order

BOX = Image.Resampling.BOX
GRADIENT = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def decode(data: bytes) -> Image.Image:
    with opened(data) as picture:
        image = Image.new("RGB", picture.size)
        for top, strip in picture.strips():
            image.paste(strip, (0, top))
    return image


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "PPM", "TIFF", "TGA"])
def test_lossless_formats_keep_every_pixel(file_format: str) -> None:
    image = decode(encoded(Image.fromarray(GRADIENT), file_format))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), GRADIENT)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "AVIF", "HEIF", "JXL"])
def test_photo_formats_decode(file_format: str) -> None:
    image = decode(encoded(Image.new("RGB", (6, 4), (200, 100, 50)), file_format, quality=95))
    assert image.size == (6, 4)
    assert np.abs(np.asarray(image).astype(int) - [200, 100, 50]).max() < 6


def test_greyscale_and_palette_become_rgb() -> None:
    grey = Image.fromarray(GRADIENT[:, :, 0])
    pixels = np.asarray(decode(encoded(grey, "PNG")))
    assert np.array_equal(pixels, np.repeat(GRADIENT[:, :, :1], 3, axis=2))
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    assert np.asarray(decode(encoded(palette, "PNG"))).tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_cmyk_becomes_rgb() -> None:
    cyan = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    assert np.asarray(decode(encoded(cyan, "TIFF")))[0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize(
    ("file_format", "order"), [("PNG", "<u2"), ("TIFF", "<u2"), ("PPM", "<u2")]
)
def test_16_bits_are_scaled_and_not_clipped(file_format: str, order: str) -> None:
    values = np.array([[0, 257, 32896, 65535]], order)
    pixels = np.asarray(decode(encoded(Image.fromarray(values), file_format)))
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]


def test_floating_point_pixels_are_refused() -> None:
    image = Image.fromarray(np.ones((2, 2), np.float32))
    with pytest.raises(BadImage, match=r"mode \w"):
        decode(encoded(image, "TIFF"))


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 51))
    assert np.asarray(decode(encoded(image, "PNG")))[0, :, 0].tolist() == [255, 0, 204]


def test_transparent_colour_of_a_palette_becomes_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    pixels = np.asarray(decode(encoded(palette, "PNG", transparency=0)))
    assert pixels.tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode(data))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.fromarray(GRADIENT)
    transpose = Image.Transpose
    # How a camera held that way stores the upright scene (Exif 2.32, tag 0x0112).
    stored = {
        2: transpose.FLIP_LEFT_RIGHT,
        3: transpose.ROTATE_180,
        4: transpose.FLIP_TOP_BOTTOM,
        5: transpose.TRANSPOSE,
        6: transpose.ROTATE_90,
        7: transpose.TRANSVERSE,
        8: transpose.ROTATE_270,
    }
    image = upright.transpose(stored[orientation]) if orientation in stored else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(image, "PNG", exif=exif))
    assert np.array_equal(np.asarray(decoded), GRADIENT)


# Orientation 6 (Exif 2.32, tag 0x0112), the first of two entries; the second is not there.
BROKEN_OFF = b"II*\0\x08\0\0\0" + b"\2\0" + b"\x12\1" + b"\3\0" + b"\1\0\0\0" + b"\6\0\0\0"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"no EXIF, I am afraid", BROKEN_OFF[:8], b"II"])
def test_an_image_whose_exif_cannot_be_read_is_not_turned(file_format: str, exif: bytes) -> None:
    image = Image.fromarray(GRADIENT)
    data = encoded(image, file_format, exif=b"Exif\0\0" + exif)
    with opened(data) as picture:
        assert not picture.turned
    expected = decode(encoded(image, file_format))
    assert np.array_equal(np.asarray(decode(data)), np.asarray(expected))


def test_of_exif_that_breaks_off_counts_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(Image.fromarray(GRADIENT), "PNG", exif=b"Exif\0\0" + BROKEN_OFF))
    code = (
        "import sys, pathlib; from crossfold.imaging.decoding import opened\n"
        "with opened(pathlib.Path(sys.argv[1]).read_bytes()) as picture:\n"
        "    print(picture.turned, picture.size, picture.warnings)"
    )
    command = [sys.executable, "-c", code, str(path)]  # pytest has filters for warnings of its own
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.startswith("True (4, 6) ('Corrupt EXIF data.")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
def test_truncated_files_are_refused(file_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), file_format)
    with pytest.raises(BadImage):
        decode(data[: len(data) * 2 // 3])


def test_corrupt_png_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = bytearray(encoded(Image.fromarray(noise), "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(BadImage):
        decode(bytes(data))


@pytest.mark.parametrize(("data", "reason"), [(b"", "empty"), (b"a cat", "not an image")])
def test_other_files_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode(data)


def test_postscript_is_not_run() -> None:
    with pytest.raises(BadImage, match="not an image"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


def png_header(width: int, height: int, colour: int) -> bytes:
    """The beginning of a PNG of 8 bits a channel: enough to judge it by."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)), (b"IDAT", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


GREY, COLOUR = 0, 2  # the PNG specification's types


@pytest.mark.parametrize(
    ("width", "height", "colour", "reason"),
    [
        (12_000, 9_000, COLOUR, "truncated"),  # 108 megapixels: let in, and then there are no rows
        (16_320, 12_240, COLOUR, "truncated"),  # 200, the largest of a telephone
        (16_384, 16_384, GREY, "truncated"),
        (16_384, 16_384, COLOUR, "too large: 16384 x 16384 pixels of PNG take 1.0 GiB"),
        (16_385, 16_384, GREY, "too large"),  # by Pillow's own limit
        (2**31 - 1, 2**31 - 1, GREY, "too large"),
    ],
)
def test_the_largest_image_is_bounded_by_its_memory(
    width: int, height: int, colour: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not its pixels: what is let in here would take up to 1 GiB.
    monkeypatch.setattr(ImageFile.ImageFile, "load", no_rows)
    with pytest.raises(BadImage, match=reason):
        decode(png_header(width, height, colour))


def no_rows(_: ImageFile.ImageFile) -> None:
    raise OSError("no rows")


def test_to_square_crops_the_centre() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = GRADIENT[0, 1]
    for pixels in (wide, wide.transpose(1, 0, 2)):
        found = square(encoded(Image.fromarray(pixels), "PNG"), SquareGeometry(10))
        assert (found == GRADIENT[0, 1]).all()


@pytest.mark.parametrize("size", [4, 16])
def test_to_square_is_scaling_the_shorter_side_then_cropping(size: int) -> None:
    tall = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 8, 3), np.uint8))
    scaled = tall.resize((size, 3 * size), Image.Resampling.BILINEAR)
    expected = np.asarray(scaled)[size : 2 * size].astype(int)
    # It rounds between its two passes.
    assert np.abs(square(encoded(tall, "PNG"), SquareGeometry(size)) - expected).max() <= 1


@pytest.mark.parametrize("interpolation", FILTERS)
def test_to_square_takes_a_share_of_the_shorter_side(interpolation: str) -> None:
    tall = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 24, 3), np.uint8))
    narrow = tall.resize((10, 40), FILTERS[interpolation], box=(3, 0, 21, 40))
    expected = narrow.resize((10, 10), FILTERS[interpolation], box=(0, 11, 10, 29))
    how = SquareGeometry(10, interpolation=interpolation, crop=0.75)
    assert np.array_equal(square(encoded(tall, "PNG"), how), np.asarray(expected))


def test_to_square_scales_up_and_down() -> None:
    for size in (3, 64):
        pixels = square(encoded(Image.new("RGB", (9, 8), (1, 2, 3)), "PNG"), SquareGeometry(size))
        assert pixels.shape == (size, size, 3)
        assert pixels.dtype == np.uint8
        assert (pixels == [1, 2, 3]).all()


GAP = SquareGeometry(16, crop=0.8, reducing_gap=2.0)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_a_large_image_is_first_reduced_to_no_less_than_the_gap(file_format: str) -> None:
    # A fifth of 200 pixels is 2.0 times 16 / 0.8; JPEG's decoder reduces by a power of 2.
    factor = {"JPEG": 4, "PNG": 5}[file_format]
    data = encoded(smooth(300, 200), file_format, quality=95)
    with opened(data, GAP.smallest_decoded) as picture:
        reduced = picture.resize((300 // factor, 200 // factor), BOX, reducing_gap=1.0)
    found = square(data, GAP)
    expected = square(encoded(reduced, "PNG"), SquareGeometry(16, crop=0.8))
    assert np.array_equal(found, expected)
    whole = square(data, SquareGeometry(16, crop=0.8))
    assert not np.array_equal(found, whole)
    assert np.abs(found.astype(int) - whole).max() <= 4


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_an_image_below_twice_the_gap_is_not_reduced(file_format: str) -> None:
    data = encoded(smooth(90, 79), file_format, quality=95)
    assert np.array_equal(square(data, GAP), square(data, SquareGeometry(16, crop=0.8)))


def smooth(width: int, height: int) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


# In strips


@pytest.fixture
def strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are made in strips of 64 pixels, as if they were large."""
    monkeypatch.setattr(picture, "STRIP", 64)


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(24, 17), (17, 24), (5, 90), (90, 5)])
def test_strips_change_no_pixel(orientation: int, shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(pixels)
    upright = ImageOps.exif_transpose(stored_with(stored, exif))
    data = encoded(stored, "PNG", exif=exif)
    assert np.array_equal(np.asarray(decode(data)), np.asarray(upright))

    side, small = min(upright.size), (2, 3)
    left, top = (upright.width - side) / 2, (upright.height - side) / 2
    rows = (left, 0, left + side, upright.height)
    narrow = upright.resize((7, upright.height), Image.Resampling.BILINEAR, box=rows)
    columns = (0, top, 7, top + side)
    expected = narrow.resize((7, 7), Image.Resampling.BILINEAR, box=columns)
    assert np.array_equal(square(data, SquareGeometry(7)), np.asarray(expected))
    with_gap = SquareGeometry(2, reducing_gap=1.0)
    once = square(encoded(upright, "PNG"), with_gap)
    assert np.array_equal(square(data, with_gap), once)
    with opened(data) as picture:
        reduced = picture.resize(small, Image.Resampling.BOX, reducing_gap=2.0)
    expected = upright.resize(small, Image.Resampling.BOX, reducing_gap=2.0)
    assert np.array_equal(np.asarray(reduced), np.asarray(expected))


def stored_with(image: Image.Image, exif: Image.Exif) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, "PNG", exif=exif)))


@pytest.mark.usefixtures("strips")
def test_transparency_is_seen_in_every_strip() -> None:
    image = Image.new("RGBA", (8, 40), (0, 0, 0, 255))
    for opaque in (True, False):
        with opened(encoded(image, "PNG")) as picture:
            assert picture.transparent is not opaque
        image.putpixel((3, 39), (0, 0, 0, 0))


# Turned by the decoder


@pytest.mark.parametrize("file_format", ["TIFF", "HEIF", "AVIF", "JXL"])
def test_no_format_is_turned_twice(file_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    left_half_white = Image.new("RGB", (64, 32))
    left_half_white.paste("white", (0, 0, 32, 32))
    if file_format == "JXL":  # what a converted photograph has; of EXIF alone it takes no notice
        data = pylibjxl.jpeg_to_jxl(encoded(left_half_white, "JPEG", exif=exif))
    else:
        data = encoded(left_half_white, file_format, exif=exif.tobytes())
    with opened(data) as picture:
        assert picture.size == (32, 64)
        assert picture.turned is (file_format != "JXL")
        top, bottom = np.concatenate([np.asarray(strip) for _, strip in picture.strips()])[[8, 56]]
    assert top.min() > 200 and bottom.max() < 50


# Values of other than 8 bits


def grey(values: list[int], dtype: str = "<u2") -> Image.Image:
    return Image.fromarray(np.array([values], dtype))


def with_sbit(png: bytes, bits: int) -> bytes:
    """Put an sBIT chunk behind the header."""
    chunk = b"sBIT" + bytes([bits])
    return png[:33] + struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


@pytest.mark.parametrize(
    ("data", "depth", "expected"),
    [
        (encoded(grey([0, 128, 255], "<i4"), "TIFF"), 8, [0, 128, 255]),
        (encoded(grey([0, 2048, 4095]), "PNG"), 12, [0, 128, 255]),
        (encoded(grey([0, 2048, 4095]), "TIFF"), 12, [0, 128, 255]),
        (encoded(grey([0, 2048, 4096]), "PNG"), 16, [0, 8, 16]),
        (with_sbit(encoded(grey([0, 512, 1023]), "PNG"), 10), 10, [0, 128, 255]),
        (with_sbit(encoded(grey([0, 32896, 65535]), "PNG"), 10), 16, [0, 128, 255]),
        (encoded(grey([0, 257, 2570]), "TIFF", tiffinfo={281: 65535}), 16, [0, 1, 10]),
    ],
)
def test_grey_values_are_scaled_from_the_bits_that_they_have(
    data: bytes, depth: int, expected: list[int]
) -> None:
    with opened(data) as picture:
        assert picture.depth == depth
    assert np.asarray(decode(data))[0, :, 0].tolist() == expected


# What a decoder complains of


def complaints(data: bytes) -> list[str]:
    with opened(data, with_warnings=True) as picture:
        return list(picture.warnings)


def test_libtiffs_lines_are_kept_and_not_written(capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (200, 200)).astype(bool)
    fax = bytearray(encoded(Image.fromarray(noise), "TIFF", compression="group4"))
    assert complaints(bytes(fax)) == []
    start = Image.open(io.BytesIO(fax)).tag_v2[273][0]  # type: ignore[attr-defined]
    fax[start + 1000 : start + 1040] = bytes(range(40))
    assert any("Fax4Decode" in line for line in complaints(bytes(fax)))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_with_a_hole_is_told_from_a_whole_one(mode: str, options: dict[str, Any]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    data = bytearray(encoded(Image.fromarray(noise).convert(mode), "JPEG", **options))
    assert complaints(bytes(data)) == []
    middle = len(data) // 2
    data[middle : middle + 1000] = bytes(1000)
    assert complaints(bytes(data)) != []


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("at_least", [None, (40, 40)])
def test_pixels_are_the_same_with_libjpegs_warnings(
    mode: str, at_least: tuple[int, int] | None
) -> None:
    data = encoded(smooth(203, 181).convert(mode), "JPEG", quality=80)
    damaged = data[: len(data) // 2] + bytes(9) + data[len(data) // 2 + 9 :]
    for file in (data, damaged):
        pixels = []
        for with_warnings in (True, False):
            with opened(file, at_least, with_warnings=with_warnings) as picture:
                pixels.append(np.concatenate([np.asarray(s) for _, s in picture.strips()]))
        assert np.array_equal(pixels[0], pixels[1])


# Files and memory


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket.png"))
        for path, kind in (
            (tmp_path / "pipe.png", "FIFO"),
            (tmp_path / "socket.png", "socket"),
            (tmp_path, "folder"),
            (Path("/dev/zero"), "device"),
        ):
            with pytest.raises(BadImage, match=kind):
                read_image(path)


def test_what_threads_have_open_stays_within_the_budget() -> None:
    budget, open_now, most = Budget(10), [], []
    lock = threading.Lock()

    def take(amount: int) -> None:
        with budget.part(amount):
            with lock:
                open_now.append(min(amount, 10))
                most.append(sum(open_now))
            time.sleep(0.001)
            with lock:
                open_now.remove(min(amount, 10))

    amounts = [3, 4, 25, 1, 9, 6, 2, 10] * 5
    assert len(list(in_order(take, amounts, 8))) == len(amounts)
    assert max(most) == 10


def test_an_image_holds_its_memory_while_it_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_budget", budget := Budget(2**30))
    data = encoded(Image.fromarray(GRADIENT), "PNG")
    others: list[bool] = []

    def take_all() -> None:
        with budget.part(2**30):
            others.append(True)

    waiting = threading.Thread(target=take_all)
    with opened(data):
        waiting.start()
        waiting.join(0.05)
        assert others == []
    waiting.join()
    assert others == [True]
