import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossfold.images import BadImage, decode, examine, to_square

GRADIENT = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "PPM", "TIFF", "TGA"])
def test_lossless_formats_keep_every_pixel(file_format: str) -> None:
    image = decode(encoded(Image.fromarray(GRADIENT), file_format))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), GRADIENT)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
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
    with pytest.raises(BadImage, match="no fixed range"):
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
    found = examine(encoded(image, file_format, exif=b"Exif\0\0" + exif))
    assert not found.turned
    expected = decode(encoded(image, file_format))
    assert np.array_equal(np.asarray(found.image), np.asarray(expected))


def test_of_exif_that_breaks_off_counts_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(Image.fromarray(GRADIENT), "PNG", exif=b"Exif\0\0" + BROKEN_OFF))
    code = (
        "import sys, pathlib; from crossfold.images import examine; "
        "found = examine(pathlib.Path(sys.argv[1]).read_bytes()); "
        "print(found.turned, found.image.size)"
    )
    command = [sys.executable, "-c", code, str(path)]  # pytest has filters for warnings of its own
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True (4, 6)\n", "")


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
    with pytest.raises(BadImage, match="corrupt or truncated"):
        decode(bytes(data))


@pytest.mark.parametrize(("data", "reason"), [(b"", "empty"), (b"a cat", "not an image")])
def test_other_files_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode(data)


def test_postscript_is_not_run() -> None:
    with pytest.raises(BadImage, match="not an image"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 20_000])
def test_decompression_bombs_are_refused(side: int) -> None:
    with pytest.raises(BadImage, match="too large"):
        decode(encoded(Image.new("1", (side, side)), "PNG"))


def test_to_square_crops_the_centre() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = GRADIENT[0, 1]
    for pixels in (wide, wide.transpose(1, 0, 2)):
        assert (to_square(Image.fromarray(pixels), 10) == GRADIENT[0, 1]).all()


@pytest.mark.parametrize("size", [4, 16])
def test_to_square_is_scaling_the_shorter_side_then_cropping(size: int) -> None:
    tall = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 8, 3), np.uint8))
    scaled = tall.resize((size, 3 * size), Image.Resampling.BILINEAR)
    expected = np.asarray(scaled)[size : 2 * size].astype(int)
    assert np.abs(to_square(tall, size) - expected).max() <= 1  # it rounds between its two passes


def test_to_square_scales_up_and_down() -> None:
    for size in (3, 64):
        pixels = to_square(Image.new("RGB", (9, 8), (1, 2, 3)), size)
        assert pixels.shape == (size, size, 3)
        assert pixels.dtype == np.uint8
        assert (pixels == [1, 2, 3]).all()
