import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from crossfold.data.examples import TEST, TRAIN, Example, Examples, write_examples
from crossfold.network import safetensors_file
from crossfold.registry import training_image_hashes


def content_hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def table(path: Path, rows: list[tuple[str, int, str]]) -> Examples:
    """Write a table of images, each with its content, label and split."""
    examples = [
        Example(f"{n}.png", b"", label, content_hash(content), split, 0)
        for n, (content, label, split) in enumerate(rows)
    ]
    write_examples(path, examples, classes=("cat", "dog"), data_hash="d")
    return Examples(path)


def test_the_training_images_are_found_again_by_what_they_show(tmp_path: Path) -> None:
    rows = [("a", 0, TRAIN), ("b", 1, TRAIN), ("a", 0, TRAIN), ("c", 1, TEST)]
    training_image_hashes.write(tmp_path / "file", table(tmp_path / "table", rows))
    found = training_image_hashes.read(tmp_path / "file")
    assert found.hashes == {content_hash("a"), content_hash("b")} and not found.whole


def test_an_image_takes_32_bytes(tmp_path: Path) -> None:
    sizes = []
    for num_images in (100, 200):
        rows = [(str(n), 0, TRAIN) for n in range(num_images)]
        training_image_hashes.write(tmp_path / "file", table(tmp_path / "table", rows))
        sizes.append((tmp_path / "file").stat().st_size)
    assert abs(sizes[1] - sizes[0] - 3200) < 16  # the header's numbers have more digits


def test_hashes_of_an_earlier_release_are_compared_with_whole_images(tmp_path: Path) -> None:
    """They are of all pixels, and the table's are of reduced ones where a JPEG is large."""
    draw = np.random.default_rng(0)
    files, hashes = [], []
    for _ in range(2):
        small = Image.fromarray(draw.integers(0, 256, (9, 10, 3), np.uint8))
        file = io.BytesIO()
        small.resize((1000, 900), Image.Resampling.BICUBIC).save(file, "JPEG")
        files.append(file.getvalue())
        pixels = Image.open(file).convert("RGB").tobytes()
        hashes.append(hashlib.sha256(b"1000x900:" + pixels).digest())
    rows = [
        Example(f"{n}.jpg", data, 0, content_hash(str(n)), TEST, -1) for n, data in enumerate(files)
    ]
    write_examples(tmp_path / "table", rows, classes=("a", "b"), data_hash="d")
    array = np.frombuffer(hashes[1], np.uint8).reshape(1, 32)
    safetensors_file.write(tmp_path / "old", {"content_hash": array}, {})
    found = training_image_hashes.read(tmp_path / "old")
    assert found.whole
    assert found.among_test_images(Examples(tmp_path / "table"), 2).tolist() == [False, True]
