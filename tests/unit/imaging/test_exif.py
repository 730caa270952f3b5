import io
import struct
import warnings

import pytest
from PIL import ExifTags, Image

from crossfold.imaging.decoding import opened
from crossfold.imaging.exif import MAX_CAMERA_LENGTH

MAKE, MODEL = ExifTags.Base.Make, ExifTags.Base.Model


def camera_of(file_format: str, tags: dict[int, object]) -> str:
    exif = Image.Exif()
    exif.update(tags)
    file = io.BytesIO()
    Image.new("RGB", (32, 16), "red").save(file, file_format, exif=exif)
    with opened(file.getvalue(), with_warnings=True) as picture:
        assert not picture.warnings
        return picture.camera


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "JXL"])
def test_the_camera_is_read_from_every_format_with_exif(file_format: str) -> None:
    private: dict[int, object] = {
        ExifTags.Base.CameraOwnerName: "Ann",
        ExifTags.Base.BodySerialNumber: "123",
    }
    tags: dict[int, object] = {MAKE: "Canon", MODEL: "EOS 5D\0", **private}
    assert camera_of(file_format, tags) == "Canon EOS 5D"


@pytest.mark.parametrize(
    ("tags", "camera"),
    [
        ({}, ""),
        ({MODEL: "  D90  "}, "D90"),
        ({MAKE: "a\x1b[31m\nb\x7f", MODEL: "c"}, "a [31m b c"),
        ({MAKE: "x" * 60_000, MODEL: "y"}, "x" * MAX_CAMERA_LENGTH),
    ],
)
def test_anything_may_stand_in_exif(tags: dict[int, object], camera: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert camera_of("PNG", tags) == camera


@pytest.mark.parametrize(
    "ifd",
    [
        b"\xff\xff\xff\xff",
        b"\x08\0\0\0\x01\0" + struct.pack("<HHIII", MAKE, 3, 1, 7, 0),  # a number
        b"\x08\0\0\0\x01\0" + struct.pack("<HHIII", MAKE, 2, 2**31, 2**31, 0),  # nowhere
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.filterwarnings("ignore:Tag data larger than file")
def test_broken_exif_has_no_camera(ifd: bytes) -> None:
    file = io.BytesIO()
    Image.new("RGB", (32, 16)).save(file, "JPEG", exif=b"Exif\0\0II*\0" + ifd)
    with opened(file.getvalue()) as picture:
        assert picture.camera == ""
