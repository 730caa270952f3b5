"""Which files the registered model opens for whom."""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from crossfold.imaging.decoding import MAX_FILE_SIZE
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network import backbone, trained_network
from crossfold.network.openvino_engine import Classifier, export
from crossfold.predict.pyfunc_model import ImageClassifier

SERVING = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ImageClassifier:
    path = tmp_path_factory.mktemp("network") / "model"
    trained_network.save_network(
        path,
        backbone.build_network("shufflenet_v2_x0_5", 2, seed=0),
        architecture="shufflenet_v2_x0_5",
        classes=("cat", "dog"),
        preprocessing=Preprocessing(32),
        precision="float32",
    )
    model = ImageClassifier()
    export(path, path.with_name("exported"))
    model.network = Classifier(path.with_name("exported"))
    return model


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image in a folder, one outside, and ways from the one to the other."""
    for name in ("inside/ok.png", "outside.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), "red").save(tmp_path / name)
    (tmp_path / "inside/link.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "inside-out").mkdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "inside-out/ok.png")
    monkeypatch.chdir(tmp_path)
    for name in (SERVING, "CROSSFOLD_IMAGE_ROOT"):
        monkeypatch.delenv(name, raising=False)


def errors(model: ImageClassifier, images: list[object]) -> list[str | None]:
    """Return the error of each image, and None of one that was predicted."""
    rows = model.predict(None, pd.DataFrame({"image": images}))  # type: ignore[arg-type]
    assert [label is None for label in rows["label"]] == [e is not None for e in rows["error"]]
    return list(rows["error"])


def test_who_loads_the_model_may_name_any_path(model: ImageClassifier, tmp_path: Path) -> None:
    paths = ["inside/ok.png", str(tmp_path / "outside.png"), "inside/../outside.png"]
    *opened, missing = errors(model, [*paths, "no.png"])
    assert opened == [None] * 3 and missing is not None


def test_a_server_opens_no_file(model: ImageClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVING, "true")
    sent = Path("inside/ok.png").read_bytes()
    there, missing, encoded = errors(
        model, ["inside/ok.png", "inside/no.png", base64.b64encode(sent).decode()]
    )
    assert encoded is None
    assert "CROSSFOLD_IMAGE_ROOT" in str(there)
    assert there == missing, "it must not say which files there are"


@pytest.mark.parametrize("serving", [True, False])
def test_below_the_folder_that_is_named_files_are_opened(
    model: ImageClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serving: bool
) -> None:
    monkeypatch.setenv("CROSSFOLD_IMAGE_ROOT", "inside")
    if serving:
        monkeypatch.setenv(SERVING, "true")
    allowed = ["ok.png", "./ok.png", str(tmp_path / "inside/ok.png")]
    assert errors(model, [*allowed]) == [None] * 3
    refused = [
        "../outside.png",
        str(tmp_path / "outside.png"),
        "link.png",
        "../inside-out/ok.png",
        str(tmp_path / "inside-out/ok.png"),
        "no.png",
    ]
    (error,) = set(errors(model, [*refused]))
    assert "CROSSFOLD_IMAGE_ROOT" in str(error)


def test_what_is_too_large_is_an_error_and_the_rest_is_predicted(model: ImageClassifier) -> None:
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, format="PNG")
    assert len(bomb.getvalue()) < 1_000_000
    good = Path("inside/ok.png").read_bytes()
    found = errors(
        model,
        [good, bomb.getvalue(), bytes(MAX_FILE_SIZE + 1), "A" * (MAX_FILE_SIZE // 3 * 4 + 8), good],
    )
    assert [error is None for error in found] == [True, False, False, False, True]
    assert all("too large" in str(error) for error in found[1:4])


def test_what_is_no_image_at_all_is_an_error(model: ImageClassifier) -> None:
    found = errors(model, [None, 1.5, "\0", "ä", "a" * 100_000, "/" * 10_000, b"", ["a"]])
    assert None not in found


@pytest.mark.parametrize(
    "spelled",
    [
        lambda text: "\n".join(text[n : n + 76] for n in range(0, len(text), 76)) + "\n",
        lambda text: "\r\n ".join(text[n : n + 64] for n in range(0, len(text), 64)),
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: text.rstrip("="),
        lambda text: f"data:image/png;base64,{text}",
        lambda text: f"data:image/png;name=a b.png;BASE64,\n{text}\n",
    ],
)
def test_base64_is_read_as_programs_write_it(
    model: ImageClassifier, spelled: Callable[[str], str]
) -> None:
    encoded = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (33, 32, 3), np.uint8)
    Image.fromarray(pixels).save(encoded, format="PNG")
    text = base64.b64encode(
        encoded.getvalue() + b"\0" * (-len(encoded.getvalue()) % 3 + 1)
    ).decode()
    assert "+" in text and "/" in text and text.endswith("=")
    assert errors(model, [spelled(text)]) == [None]


@pytest.mark.parametrize(
    "text",
    ["data:image/png,%89PNG", "data:image/png;base64", "QUJ=RA==", "QUJDR", "QUI.", "QUI%3D"],
)
def test_what_is_not_base64_is_an_error(model: ImageClassifier, text: str) -> None:
    (error,) = errors(model, [text])
    assert "base64" in str(error)
