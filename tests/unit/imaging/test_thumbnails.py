import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossfold.imaging.decoding import BadImage
from crossfold.imaging.thumbnails import data_uri


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def shown(uri: str) -> Image.Image:
    """The picture as a browser has it."""
    header, _, data = uri.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    assert header == f"data:image/{str(image.format).lower()};base64"
    return image


def photo(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def test_a_photo_becomes_a_small_jpeg_of_the_same_shape() -> None:
    uri = data_uri(encoded(photo(900, 600), "JPEG"), 96)
    image = shown(uri)
    assert (image.format, image.size) == ("JPEG", (96, 64))
    assert len(uri) < 8000
    small = np.asarray(photo(900, 600).resize((96, 64)), float)
    assert np.abs(np.asarray(image, float) - small).mean() < 8


def test_a_tiny_image_is_enlarged_pixel_by_pixel() -> None:
    tiny = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 5), np.uint8))
    image = shown(data_uri(encoded(tiny), 64))
    assert (image.format, image.size) == ("PNG", (40, 64))
    pixels = np.asarray(image.convert("L"))
    assert np.array_equal(pixels[4::8, 4::8], np.asarray(tiny))
    assert np.array_equal(pixels, np.asarray(tiny).repeat(8, axis=0).repeat(8, axis=1))


@pytest.mark.parametrize("size", [(96, 96), (60, 50), (1, 3000)])
def test_no_side_is_longer_than_asked_for(size: tuple[int, int]) -> None:
    assert max(shown(data_uri(encoded(photo(*size)), 96)).size) <= 96


def test_the_picture_is_turned_and_has_no_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "secret place"
    uri = data_uri(encoded(photo(300, 200), "JPEG", exif=exif, comment=b"secret"), 90)
    image = shown(uri)
    assert image.size == (60, 90)
    assert not image.getexif()
    assert b"secret" not in base64.b64decode(uri.partition(",")[2])


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(BadImage):
        data_uri(b"<svg onload=alert(1)>", 64)
