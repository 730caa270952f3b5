"""What the tests of several modules start from; each is made once, since it takes seconds."""

import io
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from kfp.dsl.pipeline_task import PipelineTask
from matplotlib.figure import Figure
from mlflow.tracking import MlflowClient
from PIL import Image

from crossfold.data.examples import TEST, TRAIN, Example, write_examples
from crossfold.extraction.extract_features import extract_features
from crossfold.network import backbone, processor
from crossfold.report import figures
from crossfold.settings import Backbone

ARCHITECTURE = "shufflenet_v2_x0_5"
SIZE = 32

torch.set_num_threads(1)  # small networks gain nothing from more, and other tests may be running
# At each setting of a task kfp reads the source of all callers, for an error that no step here can
# cause. Below pytest, with thousands of modules, a pipeline would take 7 s instead of 0.5.
pytest.MonkeyPatch().setattr(PipelineTask, "_ensure_container_spec_exists", lambda _: None)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite store of MLflow without a run."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}")
    return path


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save empty figures: drawing them takes seconds, and most pages are tested for their text."""
    monkeypatch.setattr(Figure, "savefig", save_empty)
    monkeypatch.setattr(figures, "to_svg", lambda _: "<svg></svg>")


def save_empty(_: Figure, file: io.BytesIO | io.StringIO, **__: object) -> None:
    """Write an empty figure, in place of Figure.savefig."""
    if isinstance(file, io.BytesIO):
        file.write(b"PNG")
    else:
        file.write("<svg ></svg>")


def _image(label: int, seed: int) -> bytes:
    """A noisy PNG whose colour tells its class, of the very size that the network takes."""
    noise = np.random.default_rng(seed).integers(0, 60, (SIZE, SIZE, 3), np.uint8)
    noise[..., label] += 150
    file = io.BytesIO()
    Image.fromarray(noise).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 54 images in three classes: 42 in three folds, 12 in the test split, mixed."""
    rows = []
    for n in range(54):
        held_out = n % 9 in (n // 9, (n // 9 + 4) % 9)
        rows.append(
            Example(
                path=f"{n:02}.png",
                image=_image(n % 3, n),
                label=n % 3,
                content_hash=f"{n:064x}",
                split=TEST if held_out else TRAIN,
                fold=-1 if held_out else n // 9 % 3,
            )
        )
    path = tmp_path_factory.mktemp("examples") / "examples"
    classes = ("red", "green", "blue")
    write_examples(path, rows, classes=classes, data_hash="d" * 32 + ".dir")
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a shufflenet_v2_x0_5 for 1,000 classes that has seen some images."""
    network = backbone.build_network(ARCHITECTURE, 1000, seed=5)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # a plain mean over what it sees
    seen = torch.rand((64, 3, 4, 4), generator=torch.Generator().manual_seed(6))
    with torch.inference_mode():
        network.train()(4 * torch.nn.functional.interpolate(seen, size=SIZE) - 2)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory, examples: Path, weights: Path) -> Path:
    """What extract_features writes for `examples` and `weights`, cut at three places."""
    path = tmp_path_factory.mktemp("features") / "features"
    _extract(examples, weights, path)
    return path


@pytest.fixture(scope="session")
def features_of_views(
    tmp_path_factory: pytest.TempPathFactory, examples: Path, weights: Path
) -> Path:
    """The same with two further views of each image."""
    path = tmp_path_factory.mktemp("features of views") / "features"
    _extract(examples, weights, path, views=("mirrored", "cropped"))
    return path


@pytest.fixture(scope="session")
def int8_instructions() -> None:
    if not processor.has_int8():
        pytest.skip("this processor has no instructions for int8, so Crossfold refuses it")


@pytest.fixture(scope="session")
def features_in_int8(
    tmp_path_factory: pytest.TempPathFactory,
    examples: Path,
    weights: Path,
    int8_instructions: None,
) -> Path:
    """The same in int8, with a further view of each image."""
    path = tmp_path_factory.mktemp("features in int8") / "features"
    _extract(examples, weights, path, views=("mirrored",), precision="int8")
    return path


def _extract(
    examples: Path,
    weights: Path,
    path: Path,
    views: tuple[str, ...] = (),
    precision: str = "float32",
) -> None:
    extract_features(
        examples=examples,
        weights=weights,
        backbone=Backbone(
            name="shuffle", architecture=ARCHITECTURE, weights=weights.name, image_size=SIZE
        ),
        cuts=["conv5", "head", "pixels"],
        precision=precision,
        margin=0,
        num_threads=1,
        features=path,
        views=views,
    )
