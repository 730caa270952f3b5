"""An image that a camera stored turned is the upright image, wherever images are looked at."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from crossfold.data.examination.folder import examine_folder, split_folder
from crossfold.data.examination.page import render
from crossfold.data.examples import Example, Examples, write_examples
from crossfold.data.image_source import FolderSource
from crossfold.data.splits import TRAIN, SplitSettings
from crossfold.imaging.decoding import read_image
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network import backbone, trained_network
from crossfold.network.openvino_engine import Classifier, export
from crossfold.predict.model import predict_images

PROJECT = Path(__file__).parents[3]
ORIENTATIONS = range(1, 9)
CLASSES = ("turned", "upright")
SIZE = 32
# How a camera held that way stores the upright scene (Exif 2.32, tag 0x0112).
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def scene(orientation: int) -> Image.Image:
    """A window of a photograph, another for each orientation."""
    left = 60 * orientation
    return Image.fromarray(load_sample_image("china.jpg")[150:270, left : left + 160])


def stored(orientation: int) -> Image.Image:
    method = STORED.get(orientation)
    return scene(orientation) if method is None else scene(orientation).transpose(method)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The eight scenes as they were stored, and under the other class, darker, upright ones."""
    folder = tmp_path_factory.mktemp("photos")
    for name in CLASSES:
        (folder / name).mkdir()
    for orientation in ORIENTATIONS:
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored(orientation).save(folder / "turned" / f"{orientation}.png", exif=exif)
        upright = scene(orientation).point(lambda value: value // 2)
        upright.save(folder / "upright" / f"{orientation}.png")
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """The same images with upright pixels and without a word on orientation."""
    plain = tmp_path_factory.mktemp("plain") / folder.name
    for path in folder.rglob("*.png"):
        target = plain / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.parent.name == "turned":
            scene(int(path.stem)).save(target)
        else:
            target.write_bytes(path.read_bytes())
    return plain


def trained_on(folder: Path, table: Path) -> np.ndarray:
    """The pixels of each image that `extract_features` and `evaluate_test` get from the table."""
    report = split_folder(examine_folder(folder), SplitSettings(num_folds=2, test_fraction=0.2))
    rows = zip(report.paths, report.labels, report.content_hashes, strict=True)
    write_examples(
        table,
        (Example(p, (folder / p).read_bytes(), n, content, TRAIN, 0) for p, n, content in rows),
        classes=CLASSES,
        data_hash="",
    )
    batches = Examples(table).decoded_batches(TRAIN, Preprocessing(SIZE), 1)
    return np.concatenate([pixels for _, pixels, _ in batches])


def test_training_sees_them_upright(folder: Path, plain: Path, tmp_path: Path) -> None:
    turned = trained_on(folder, tmp_path / "turned")
    assert np.array_equal(turned, trained_on(plain, tmp_path / "plain"))
    assert len(np.unique(turned, axis=0)) == 2 * len(ORIENTATIONS)


def test_prediction_sees_them_upright(folder: Path, plain: Path, tmp_path: Path) -> None:
    module = backbone.build_network("shufflenet_v2_x0_5", len(CLASSES), seed=0)
    with torch.no_grad():  # untrained, it says nearly the same of every image
        module.get_parameter("fc.weight").mul_(1e4)
    trained_network.save_network(
        tmp_path / "model",
        module,
        architecture="shufflenet_v2_x0_5",
        classes=CLASSES,
        preprocessing=Preprocessing(SIZE),
        precision="float32",
    )
    export(tmp_path / "model", tmp_path / "exported")
    network = Classifier(tmp_path / "exported")
    names = [f"turned/{orientation}.png" for orientation in ORIENTATIONS]
    turned, upright = (
        [
            max(found.probabilities.values())
            for found in predict_images(network, [root / name for name in names], read_image)
        ]
        for root in (folder, plain)
    )
    assert turned == upright
    assert len(set(turned)) == len(ORIENTATIONS)


def test_the_check_and_the_page_see_them_upright(folder: Path, plain: Path) -> None:
    turned, upright = examine_folder(folder), examine_folder(plain)
    assert turned.content_hashes == upright.content_hashes
    assert turned.sizes.tolist() == [[160, 120]] * 2 * len(ORIENTATIONS)
    assert list(turned.remarks["turned"]) == [f"turned/{n}.png" for n in ORIENTATIONS if n > 1]
    assert "turned" not in upright.remarks
    pictures = pictures_of(render(turned, FolderSource(folder)))
    expected = pictures_of(render(upright, FolderSource(plain)))
    assert len(pictures.keys() & {f"turned/{n}.png" for n in ORIENTATIONS}) == len(ORIENTATIONS)
    assert {path: pictures[path] for path in expected} == expected


def pictures_of(page: str) -> dict[str, str]:
    """The pictures on a page: what they are of, and their bytes."""
    return {path: uri for uri, path in re.findall(r'<img src="(data:[^"]+)" alt="([^"]+)"', page)}


def test_nothing_else_opens_an_image() -> None:
    sources = [
        p
        for room in ("crossfold", "components", "pipelines")
        for p in (PROJECT / room).rglob("*.py")
    ]
    assert [p.name for p in sources if "Image.open(" in p.read_text()] == ["header.py"]
