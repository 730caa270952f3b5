import io
from pathlib import Path

import numpy as np
from PIL import Image

from crossfold.data.examples import TEST, TRAIN, Example, Examples, write_examples
from crossfold.diagnosis.shortcuts.facts import BORDER, CAMERA, COLOUR, DIMENSIONS, FILE, read_facts
from crossfold.imaging.preprocessing import SquareGeometry


def test_facts_are_those_of_the_training_images(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:2] = (200, 100, 50)  # the top edge, a sixteenth of the side
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    rows = [
        Example(f"{n}.png", file.getvalue(), 0, "", split, 0, n, 640, 32, 20, camera, "PNG")
        for n, (split, camera) in enumerate(
            [(TEST, "A"), (TRAIN, "B"), (TRAIN, ""), (TRAIN, "B"), (TRAIN, "C")]
        )
    ]
    write_examples(tmp_path / "table", rows, classes=("a",), data_hash="d")
    chosen = np.array([0, 1, 3])
    facts = read_facts(Examples(tmp_path / "table"), chosen, SquareGeometry(32))
    assert facts[FILE].tolist() == [[640, 1, 1]] * 3
    assert facts[DIMENSIONS].tolist() == [[32, 20, 1.6]] * 3
    assert facts[CAMERA].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    wide = pixels.reshape(-1, 3)
    np.testing.assert_allclose(facts[COLOUR][0], [*wide.mean(0), *wide.std(0)])
    top, bottom, left, _ = facts[BORDER][0].reshape(4, 6)
    assert (top.tolist(), bottom.tolist()) == ([200, 100, 50, 0, 0, 0], [0] * 6)
    np.testing.assert_allclose(left[:3], np.array([200, 100, 50]) / 16)
