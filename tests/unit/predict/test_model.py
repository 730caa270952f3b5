import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossfold.imaging.decoding import MAX_FILE_SIZE, read_image
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network import backbone, trained_network
from crossfold.network.openvino_engine import Classifier, export
from crossfold.predict.model import Prediction, predict_images

CLASSES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    path = tmp_path_factory.mktemp("network") / "model"
    module = backbone.build_network("shufflenet_v2_x0_5", len(CLASSES), seed=0)
    trained_network.save_network(
        path,
        module,
        architecture="shufflenet_v2_x0_5",
        classes=CLASSES,
        preprocessing=Preprocessing(32),
        precision="float32",
    )
    export(path, path.with_name("exported"))
    return Classifier(path.with_name("exported"))


def _write_image(path: Path, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")
    return path


def _predict(paths: list[Path], network: Classifier, batch_size: int = 64) -> list[Prediction]:
    return list(predict_images(network, paths, read_image, batch_size))


def test_each_file_gets_the_label_of_the_highest_probability(
    tmp_path: Path, network: Classifier
) -> None:
    paths = [_write_image(tmp_path / f"{n}.png", n) for n in range(3)]
    predictions = _predict(paths, network)
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    expected = network.predict(pixels)
    assert [found.label for found in predictions] == [CLASSES[i] for i in expected.argmax(axis=1)]
    assert [list(found.probabilities.values()) for found in predictions] == expected.tolist()
    assert [found.error for found in predictions] == [None] * 3


def test_a_file_that_cannot_be_used_is_an_error_in_its_place(
    tmp_path: Path, network: Classifier
) -> None:
    good = _write_image(tmp_path / "good.png", 1)
    broken = tmp_path / "broken.png"
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, format="PNG")
    broken.write_bytes(file.getvalue()[:60])
    text = tmp_path / "text.png"
    text.write_text("not an image")
    found = _predict([broken, good, tmp_path / "missing.png", tmp_path, text, good], network)
    assert [row.label is None for row in found] == [True, False, True, True, True, False]
    assert "corrupt or truncated" in str(found[0].error)
    assert found[2].error == "No such file or directory"
    assert found[3].error == "a folder, not a file"
    assert found[4].error == "corrupt, or not an image in a known format"
    assert found[1] == found[5]


def test_a_batch_of_broken_files_alone_is_there_too(tmp_path: Path, network: Classifier) -> None:
    assert [row.label for row in _predict([tmp_path / "missing.png"], network)] == [None]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_files_of_several_batches_keep_their_order(
    tmp_path: Path, network: Classifier, batch_size: int
) -> None:
    paths = [_write_image(tmp_path / f"{n}.png", n) for n in range(7)]
    found = _predict(paths, network, batch_size=batch_size)
    for path, prediction in zip(paths, found, strict=True):
        (alone,) = _predict([path], network)
        assert prediction.probabilities == pytest.approx(alone.probabilities, abs=1e-6)
    assert len({prediction.probabilities["cat"] for prediction in found}) == 7


def test_images_are_read_a_batch_ahead_and_no_further(tmp_path: Path, network: Classifier) -> None:
    image = _write_image(tmp_path / "image.png", 1).read_bytes()
    read = []

    def reading(number: int) -> bytes:
        read.append(number)
        return image

    predictions = predict_images(network, range(1000), reading, batch_size=4)
    next(predictions)
    predictions.close()
    assert 4 <= len(read) <= 8


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, network: Classifier) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_SIZE + 1)
    (found,) = _predict([path], network)
    assert found.error == f"too large: {MAX_FILE_SIZE + 1} bytes, at most {MAX_FILE_SIZE} allowed"


def test_the_most_likely_classes_are_in_order() -> None:
    found = Prediction("dog", {"cat": 0.2, "dog": 0.5, "owl": 0.3}, None)
    assert found.most_likely(2) == [("dog", 0.5), ("owl", 0.3)]
    assert len(found.most_likely(9)) == 3
    assert Prediction(None, {}, "broken").most_likely(2) == []
