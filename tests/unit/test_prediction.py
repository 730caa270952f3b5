import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossfold import backbone
from crossfold.classifier import Classifier, export
from crossfold.prediction import BATCH_SIZE, predict_files

CLASSES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    path = tmp_path_factory.mktemp("network") / "model"
    module = backbone.build_network("shufflenet_v2_x0_5", len(CLASSES), seed=0)
    backbone.save_network(
        path,
        module,
        architecture="shufflenet_v2_x0_5",
        classes=CLASSES,
        image_size=32,
        candidate={},
        precision="float32",
    )
    export(path, path.with_name("exported"))
    return Classifier(path.with_name("exported"))


def _write_image(path: Path, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")
    return path


def test_each_file_gets_the_label_of_the_highest_probability(
    tmp_path: Path, network: Classifier
) -> None:
    paths = [_write_image(tmp_path / f"{n}.png", n) for n in range(3)]
    rows = list(predict_files(paths, network))
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    expected = network.predict(pixels)
    assert [row.path for row in rows] == paths
    assert [row.label for row in rows] == [CLASSES[i] for i in expected.argmax(axis=1)]
    assert [row.probability for row in rows] == expected.max(axis=1).tolist()
    assert [row.error for row in rows] == [None] * 3


def test_a_file_that_cannot_be_used_is_a_row_with_its_error_in_its_place(
    tmp_path: Path, network: Classifier
) -> None:
    good = _write_image(tmp_path / "good.png", 1)
    broken = tmp_path / "broken.png"
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, format="PNG")
    broken.write_bytes(file.getvalue()[:60])
    text = tmp_path / "text.png"
    text.write_text("not an image")
    paths = [broken, good, tmp_path / "missing.png", tmp_path, text, good]
    rows = list(predict_files(paths, network))
    assert [row.path for row in rows] == paths
    assert [row.label is None for row in rows] == [True, False, True, True, True, False]
    assert "corrupt or truncated" in str(rows[0].error)
    assert rows[2].error == "No such file or directory"
    assert rows[3].error == "Is a directory"
    assert rows[4].error == "corrupt, or not an image in a known format"
    assert rows[1][1:] == rows[5][1:]


def test_a_batch_of_broken_files_alone_is_rows_too(tmp_path: Path, network: Classifier) -> None:
    assert [row.label for row in predict_files([tmp_path / "missing.png"], network)] == [None]


def test_more_files_than_a_batch_keep_their_order(tmp_path: Path, network: Classifier) -> None:
    one, other = (_write_image(tmp_path / f"{n}.png", n) for n in range(2))
    paths = [one] * BATCH_SIZE + [other]
    rows = list(predict_files(paths, network))
    assert [row.path for row in rows] == paths
    (alone,) = predict_files([other], network)
    assert rows[-1].probability == pytest.approx(alone.probability, abs=1e-6)
