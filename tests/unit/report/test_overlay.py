import numpy as np
from PIL import Image

from crossfold.report.overlay import overlay


def test_an_overlay_reads_in_grey_too() -> None:
    """On an even image, more evidence is lighter, without its colour as well."""
    pixels = np.full((64, 64, 3), 128, np.uint8)
    activation = np.linspace(0, 1, 8, dtype=np.float32)[np.newaxis].repeat(8, axis=0)
    drawn = overlay(pixels, activation)
    assert drawn.size == (64, 64)
    grey = np.asarray(drawn.convert("L")).astype(int)[32]
    assert (np.diff(grey[4:-4]) >= 0).all() and grey[-1] - grey[0] > 100


def test_a_white_background_without_evidence_is_darker_than_a_black_one_with_it() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32] = 255
    activation = np.array([[0.0, 1.0]], np.float32)
    grey = np.asarray(overlay(pixels, activation).convert("L"))
    assert grey[32, 0] < grey[32, 63]


def test_the_image_shows_through() -> None:
    pixels = np.asarray(Image.radial_gradient("L").convert("RGB"))
    drawn = np.asarray(overlay(pixels, np.ones((4, 4), np.float32)).convert("L")).astype(float)
    assert np.corrcoef(drawn.ravel(), pixels[..., 0].ravel())[0, 1] > 0.9
