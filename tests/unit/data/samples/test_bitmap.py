from pathlib import Path

import numpy as np
from PIL import Image

from crossfold.data.samples.bitmap import bitmap


def test_a_bitmap_is_the_file_that_pillow_writes(tmp_path: Path) -> None:
    pixels = np.arange(3 * 8 * 4, dtype=np.uint8).reshape(8, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "pillow.bmp")
    header, body = 38, 54  # the resolution and unused fields in between are no one's concern
    expected = (tmp_path / "pillow.bmp").read_bytes()
    assert bitmap(pixels)[:header] == expected[:header]
    assert bitmap(pixels)[body:] == expected[body:]
