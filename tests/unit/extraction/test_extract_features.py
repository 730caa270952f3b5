import io
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image

from crossfold.data.examples import TEST, TRAIN, Example, Examples, write_examples
from crossfold.errors import UserError
from crossfold.extraction.extract_features import extract_features
from crossfold.extraction.network_check import check_network
from crossfold.features.features_file import Features, join_features
from crossfold.imaging.decoding import square
from crossfold.imaging.preprocessing import REDUCING_GAP, Preprocessing, SquareGeometry
from crossfold.network import (
    backbone,
    determinism,
    normalization,
    openvino_engine,
    safetensors_file,
)
from crossfold.settings import Backbone
from tests.unit.networks import IMAGENET, save

ARCHITECTURE = "shufflenet_v2_x0_5"
SIZE = 32


PIXELS = "pixels/32 bilinear 1.0"
SMALL = "squeezenet1_1"


def backbone_of(architecture: str, image_size: int, name: str = "shuffle") -> Backbone:
    return Backbone(name=name, architecture=architecture, weights="weights", image_size=image_size)


SHUFFLE = backbone_of(ARCHITECTURE, SIZE)


def extract(examples: Path, weights: Path, features: Path, **changes: Any) -> dict[str, int]:
    given: dict[str, Any] = {
        "backbone": SHUFFLE,
        "cuts": ["head"],
        "precision": "float32",
        "margin": 0,
    }
    return extract_features(
        examples=examples, weights=weights, num_threads=1, features=features, **given | changes
    )


def without_times(features: Path) -> tuple[Any, dict[str, list[Any]]]:
    """What a file of features has, except how long it took."""
    arrays, about = safetensors_file.read(features)
    kept = {name: a.tolist() for name, a in arrays.items() if not name.endswith("milliseconds")}
    return about, kept


def train_rows(examples: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(examples).to_pylist()
    return [row for row in rows if row["split"] == TRAIN]


def train_pixels(examples: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The images as they are in their files: they have the size that the network takes."""
    files = [row["image"] for row in train_rows(examples)]
    return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])


def seen_by(
    layer: str, weights: Path, batches: list[np.ndarray[Any, np.dtype[np.uint8]]]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What reaches a layer when torchvision's network, with these weights, runs on the pixels."""
    determinism.prepare(num_threads=1)  # as `extract` does: another number rounds otherwise
    network = backbone.build_network(ARCHITECTURE, 1000, seed=0)
    network.load_state_dict(safetensors.torch.load_file(weights))
    seen: list[torch.Tensor] = []
    network.get_submodule(layer).register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.inference_mode():
        for batch in batches:
            network(normalization.normalize(torch.from_numpy(batch), IMAGENET))
    return torch.cat(seen).numpy()


def test_labels_folds_and_pixels_are_the_tables_in_its_order(
    examples: Path, features: Path
) -> None:
    arrays, about = safetensors_file.read(features)
    rows = train_rows(examples)
    assert arrays["label"].tolist() == [row["label"] for row in rows]
    assert arrays["fold"].tolist() == [row["fold"] for row in rows]
    np.testing.assert_array_equal(arrays[PIXELS], train_pixels(examples))
    assert about == {
        "classes": ["red", "green", "blue"],
        "shard": 0,
        "backbones": [
            {
                "name": "shuffle",
                "architecture": ARCHITECTURE,
                "weights": "weights.safetensors",
                "preprocessing": {
                    "image_size": SIZE,
                    "mean": [0.485, 0.456, 0.406],
                    "std": [0.229, 0.224, 0.225],
                    "interpolation": "bilinear",
                    "crop": 1.0,
                    "reducing_gap": REDUCING_GAP,
                },
                "num_parameters": 344_867,  # torchvision's 1,366,792 with 3 classes, not 1,000
                "num_bytes": 1_411_724,
                "milliseconds": None,
                "precision": None,
            }
        ],
    }


def test_the_features_know_the_backbone_its_time_and_its_weights(
    features: Path, weights: Path
) -> None:
    stored = Features(features)
    backbone = stored.backbone("shuffle")
    assert backbone == stored.backbone(None) == stored.backbones[0]
    assert backbone.milliseconds is not None and 0 < backbone.milliseconds < 1000
    network, kept = stored.network(backbone, seed=1), safetensors.torch.load_file(weights)
    assert backbone.num_parameters == sum(p.numel() for p in network.parameters())
    assert all(
        torch.equal(tensor, kept[name])
        for name, tensor in network.state_dict().items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    )


@pytest.mark.parametrize(("cut", "layer"), [("head", "fc"), ("conv5", "conv5.0")])
def test_features_are_what_reaches_the_layer(
    examples: Path, weights: Path, features: Path, cut: str, layer: str
) -> None:
    found = safetensors_file.read(features)[0][f"shuffle/{cut}"][:, 0]
    pixels = train_pixels(examples)
    assert found.dtype == np.float32 and len(found) == len(pixels) == 42
    # Other kernels compute it, from weights that have batch normalization in them.
    one_by_one = seen_by(layer, weights, [pixels[[i]] for i in range(len(pixels))])
    np.testing.assert_allclose(found, one_by_one, rtol=1e-3, atol=3e-4)
    assert not np.allclose(found[0], found[1], rtol=1e-3, atol=1e-4), "images are not told apart"


def test_stored_views_are_the_features_of_the_changed_pixels(
    examples: Path, weights: Path, features: Path, features_of_views: Path
) -> None:
    (arrays, _), (own, _) = (safetensors_file.read(path) for path in (features_of_views, features))
    images = train_pixels(examples)
    for cut, layer in {"head": "fc", "conv5": "conv5.0"}.items():
        found = arrays[f"shuffle/{cut}"]
        assert found.shape[:2] == (42, 3)
        np.testing.assert_allclose(found[:, :1], own[f"shuffle/{cut}"], rtol=1e-3, atol=3e-4)
        mirrored = seen_by(layer, weights, [images[:, :, ::-1].copy()])
        np.testing.assert_allclose(found[:, 1], mirrored, rtol=1e-3, atol=3e-4)
        assert not np.allclose(found[:, 0], found[:, 1], rtol=1e-3, atol=3e-4)
    assert arrays["label"].tolist() == own["label"].tolist()
    assert arrays["fold"].tolist() == own["fold"].tolist()


def test_bfloat16_gives_the_features_in_fewer_digits(
    examples: Path, weights: Path, features: Path, tmp_path: Path
) -> None:
    extract(examples, weights, tmp_path / "features", precision="bfloat16")
    found = safetensors_file.read(tmp_path / "features")[0]["shuffle/head"]
    wanted = safetensors_file.read(features)[0]["shuffle/head"]
    assert found.dtype == np.float32
    if not openvino_engine.has_bfloat16():
        np.testing.assert_array_equal(found, wanted)
        return
    assert 0.95 < np.corrcoef(found.ravel(), wanted.ravel())[0, 1] < 1 - 1e-6


@pytest.mark.parametrize(
    ("max_rows", "num_shards"), [pytest.param(11, 2, marks=pytest.mark.slow), (27, 3)]
)
def test_joined_shards_are_the_features_of_the_whole_table(
    examples: Path,
    weights: Path,
    features: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_rows: int,
    num_shards: int,
) -> None:
    rows = [Example(**row) for row in pq.read_table(examples).to_pylist()]
    monkeypatch.setattr("crossfold.data.examples._MAX_ROWS", max_rows)  # five row groups, or two
    about = {"classes": ("red", "green", "blue"), "data_hash": "0.dir"}
    write_examples(tmp_path / "examples", rows, **about)  # type: ignore[arg-type]
    cuts = ["conv5", "head", "pixels"]
    shards = [tmp_path / f"shard {n}" for n in range(num_shards)]
    for n, path in enumerate(shards):
        given = {"cuts": cuts, "shard": n, "num_shards": num_shards}
        extract(tmp_path / "examples", weights, path, **given)
    join_features(parts=shards[::-1], features=tmp_path / "joined")
    joined, whole = without_times(tmp_path / "joined"), without_times(features)
    whole[0]["backbones"][0]["weights"] = "weights"
    assert joined == whole


def test_several_backbones_are_joined_and_share_equal_pixels(
    examples: Path, weights: Path, features: Path, tmp_path: Path
) -> None:
    other = backbone_of(SMALL, SIZE, name="squeeze")
    network = backbone.build_network(SMALL, 3, seed=0)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "weights")
    cuts = ["head", "pixels"]
    extract(examples, tmp_path / "weights", tmp_path / "squeeze", backbone=other, cuts=cuts)
    join_features(parts=[features, tmp_path / "squeeze"], features=tmp_path / "joined")
    (_, one), (_, two), (about, both) = map(
        without_times, (features, tmp_path / "squeeze", tmp_path / "joined")
    )
    assert both == one | two and len(both) < len(one) + len(two) - 2
    assert [facts["name"] for facts in about["backbones"]] == ["shuffle", "squeeze"]
    stored = Features(tmp_path / "joined")
    assert stored.backbone("squeeze").architecture == SMALL
    assert {facts.milliseconds for facts in stored.backbones}.isdisjoint({None})


def test_the_bytes_of_an_image_are_as_stored_and_progress_reaches_the_end(
    examples: Path, weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cuts = ["conv5", "pixels", "head"]
    told = extract(examples, weights, tmp_path / "features", cuts=cuts)
    assert capfd.readouterr().out.splitlines() == ["progress 32/42 images", "progress 42/42 images"]
    arrays, _ = safetensors_file.read(tmp_path / "features")
    at = {"pixels": PIXELS, "head": "shuffle/head", "conv5": "shuffle/conv5"}
    values = {name for name in arrays if not name.startswith("shuffle/weights/")}
    assert values == {"label", "fold", "shuffle/milliseconds", *at.values()}
    assert told == {cut: arrays[at[cut]].nbytes // len(arrays[at[cut]]) for cut in told}
    assert told["pixels"] == SIZE * SIZE * 3 and told["head"] == 1024 * 4
    checked = check_network(SHUFFLE, weights, cuts)
    assert checked.num_bytes_stored == told["conv5"] + told["head"]


def test_the_test_split_is_not_decoded(
    examples: Path, weights: Path, features: Path, tmp_path: Path
) -> None:
    rows = [Example(**row) for row in pq.read_table(examples).to_pylist()]
    broken = [row._replace(image=b"broken") if row.split == TEST else row for row in rows]
    about = {"classes": ("red", "green", "blue"), "data_hash": "0.dir"}
    write_examples(tmp_path / "without test", broken, **about)  # type: ignore[arg-type]
    cuts = ["conv5", "head", "pixels"]
    extract(tmp_path / "without test", weights, tmp_path / "features", cuts=cuts)
    assert without_times(tmp_path / "features")[1] == without_times(features)[1]


def test_images_of_any_size_become_the_square(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    row = Example("a.png", file.getvalue(), 0, "0", TRAIN, 0)
    path = tmp_path / "examples"
    write_examples(path, [row] * 3, classes=("a", "b"), data_hash="0.dir")
    how = Preprocessing(20, interpolation="bicubic", crop=0.8)
    ((paths, found, labels),) = Examples(path).decoded_batches(TRAIN, how, num_threads=2)
    wanted = square(file.getvalue(), how.geometry)
    np.testing.assert_array_equal(found, np.stack([wanted] * 3))
    assert (paths, labels.tolist()) == (["a.png"] * 3, [0, 0, 0])


def test_squares_are_taken_as_they_are_and_others_are_refused(
    examples: Path, weights: Path, features: Path, tmp_path: Path
) -> None:
    rows = [Example(**row) for row in pq.read_table(examples).to_pylist()]
    about: dict[str, Any] = {
        "classes": ("red", "green", "blue"),
        "data_hash": "0.dir",
        "geometries": (SquareGeometry(SIZE, reducing_gap=REDUCING_GAP),),
    }
    without_files = [
        row._replace(image=None, squares=(square(row.image, *about["geometries"]),))
        if row.split == TRAIN and row.image
        else row._replace(squares=(None,))
        for row in rows
    ]
    write_examples(tmp_path / "squares", without_files, **about)
    extract(tmp_path / "squares", weights, tmp_path / "a", cuts=["conv5", "head", "pixels"])
    found, wanted = without_times(tmp_path / "a"), without_times(features)
    assert found[1] == wanted[1]
    other = backbone_of(ARCHITECTURE, 2 * SIZE)
    with pytest.raises(UserError, match=r"shuffle takes squares of 64 pixels, .* wrote 32 pixels"):
        extract(tmp_path / "squares", weights, tmp_path / "b", backbone=other)
    assert not (tmp_path / "b").exists()


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    examples: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not a real disk: to fill this machine's would harm what else runs on it.
    usage = namedtuple("usage", "total used free")
    extract(examples, weights, tmp_path / "features", cuts=["head", "pixels"])
    arrays, _ = safetensors_file.read(tmp_path / "features")
    needed = sum(array.nbytes for array in arrays.values())
    (tmp_path / "features").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - needed, needed - 1))
    with pytest.raises(UserError, match=r"\b42 images") as caught:
        extract(examples, weights, tmp_path / "features", cuts=["head", "pixels"])
    message = str(caught.value)
    assert "4,096 bytes at shuffle/head" in message and f"3,072 bytes at {PIXELS}" in message
    assert "model.image_size" in message and str(tmp_path) in message
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 10**9))
    extract(examples, weights, tmp_path / "features", cuts=["head", "pixels"])


@pytest.mark.parametrize("cut", ["head", "features.3", "pixels"])
def test_an_image_size_that_the_network_cannot_take_is_refused(
    examples: Path, tmp_path: Path, cut: str
) -> None:
    """Wherever training begins: of a cut before the layer that cannot, too."""
    weights = tmp_path / "weights"
    network = backbone.build_network(SMALL, 3, seed=0)
    safetensors.torch.save_file(network.state_dict(), weights)
    with pytest.raises(UserError, match=r"model\.image_size: squeezenet1_1 .*\b8 pixels"):
        extract(
            examples,
            weights,
            tmp_path / "features",
            backbone=backbone_of(SMALL, 8),
            cuts=[cut],
        )
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_an_unknown_stage_leaves_no_file(examples: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="layer4"):
        extract(examples, weights, tmp_path / "features", cuts=["head", "layer4"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("architecture", "cut", "size"),
    [
        (ARCHITECTURE, "conv5", 32),
        ("regnet_y_400mf", "trunk_output.block4", 32),
        ("swin_v2_t", "features.7", 64),
        ("vit_b_32", "pixels", 224),
        ("vit_h_14", "head", 518),
        ("inception_v3", "head", 96),
    ],
)
def test_a_network_that_fits_is_let_through(architecture: str, cut: str, size: int) -> None:
    assert check_network(backbone_of(architecture, size), None, ["head", cut]).source == ""


@pytest.mark.parametrize(
    ("architecture", "cut", "size", "message"),
    [
        (ARCHITECTURE, "conv55", 32, r"conv55: .*\bconv5\b"),
        (ARCHITECTURE, "stage2.1.branch2", 32, r"stage2\.1\.branch2: .* 2 "),
        ("vit_b_32", "head", 32, r"model\.image_size: vit_b_32 .*\b32 pixels"),
        ("inception_v3", "head", 32, r"model\.image_size: inception_v3 .*\b32 pixels"),
        ("squeezenet1_1", "head", 32, r"model\.weights: .* squeezenet1_1"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_without_its_values(
    weights: Path, architecture: str, cut: str, size: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_network(backbone_of(architecture, size), weights, [cut])


def test_wrapped_weights_are_told_before_the_run(weights: Path, tmp_path: Path) -> None:
    wrapped = tmp_path / "wrapped"
    torch.save({"model": safetensors.torch.load_file(weights)}, wrapped)
    assert check_network(SHUFFLE, wrapped, ["head"]).source == "`model`"


def test_in_int8_the_export_computes_the_very_features_that_were_stored(
    examples: Path, features: Path, features_in_int8: Path, tmp_path: Path
) -> None:
    stored = Features(features_in_int8)
    facts = stored.backbone(None)
    save(
        tmp_path / "network",
        stored.network(facts, seed=0),
        ARCHITECTURE,
        "int8",
        preprocessing=facts.preprocessing,
    )
    openvino_engine.export(tmp_path / "network", tmp_path / "exported", stored.graph(facts, "head"))
    exported, about = openvino_engine.load(tmp_path / "exported")
    compute = openvino_engine.compiled(openvino_engine.split(exported)[0], about["precision"], 2)
    (found,) = compute(train_pixels(examples)[:9])
    np.testing.assert_array_equal(found, stored.values(facts, "head")[:9, 0])
    exact = safetensors_file.read(features)[0]["shuffle/head"]
    difference = np.linalg.norm(stored.values(facts, "head")[:, :1] - exact)
    assert 1e-4 < difference / np.linalg.norm(exact) < 0.5
    assert stored.graph(facts, "pixels") is None


@pytest.mark.usefixtures("int8_instructions")
def test_in_int8_joined_shards_have_the_values_and_graph_of_the_whole_table(
    examples: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossfold.data.examples._MAX_ROWS", 27)  # two row groups
    rows = [Example(**row) for row in pq.read_table(examples).to_pylist()]
    classes = ("red", "green", "blue")
    write_examples(tmp_path / "examples", rows, classes=classes, data_hash="0.dir")
    extract(tmp_path / "examples", weights, tmp_path / "whole", precision="int8")
    shards = [tmp_path / f"shard {n}" for n in range(2)]
    for n, path in enumerate(shards):
        given = {"precision": "int8", "shard": n, "num_shards": 2}
        extract(tmp_path / "examples", weights, path, **given)
    join_features(parts=shards, features=tmp_path / "joined")
    assert without_times(tmp_path / "joined") == without_times(tmp_path / "whole")
