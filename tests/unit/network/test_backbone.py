import argparse
import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from crossfold.architectures import ARCHITECTURES
from crossfold.errors import UserError
from crossfold.network import backbone
from crossfold.settings import Candidate
from crossfold.training.feature_rows import FeatureRows
from crossfold.training.fit import fit, trainable_suffix
from crossfold.training.recipe import FitSettings, Recipe
from tests.unit.networks import SMALL, build, pixels, save


def state(network: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(network.state_dict())


def test_pixels_are_normalized_as_torchvision_does() -> None:
    from torchvision.transforms import functional

    images = pixels(2, 5)
    wanted = torch.stack(
        [
            functional.normalize(
                functional.to_tensor(image), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
            )
            for image in images
        ]
    )
    found = backbone.normalize(torch.from_numpy(images))
    torch.testing.assert_close(found, wanted)
    assert found.is_contiguous()


@pytest.mark.parametrize(
    ("architecture", "size", "stages"),
    [
        ("resnet18", 40, ["layer4", "layer2.1"]),
        ("vgg11", 32, ["classifier", "features.16"]),
        ("densenet121", 40, ["features.denseblock4", "features.transition2"]),
        ("mobilenet_v3_small", 40, ["features.9", "classifier"]),
        ("shufflenet_v2_x0_5", 40, ["conv5", "stage4", "stage3.2"]),
        ("squeezenet1_1", 40, ["features.12", "classifier"]),
        ("efficientnet_b0", 40, ["features.6"]),
        ("convnext_tiny", 40, ["features.7", "features.7.1"]),
        ("swin_t", 64, ["features.7"]),
        ("swin_v2_t", 64, ["features.5"]),
    ],
)
def test_prefix_and_suffix_are_the_network(architecture: str, size: int, stages: list[str]) -> None:
    network = build(architecture)
    traced = backbone.trace(network)
    images = torch.from_numpy(pixels(2, size))
    cuts = ["head", *stages]
    with torch.inference_mode():
        wanted = network(backbone.normalize(images))
        values = backbone.prefix(traced, cuts)(backbone.normalize(images))
        for cut, value in zip(cuts, values, strict=True):
            assert torch.equal(backbone.suffix(traced, cut)(value), wanted), cut
        assert torch.equal(backbone.suffix(traced, "pixels")(images), wanted)


def test_training_from_a_stage_has_all_its_weights() -> None:
    """Those beside its layers, too, as ConvNeXt's layer scales are."""
    network = build("convnext_tiny")
    suffix = backbone.suffix(backbone.trace(network), "features.7")
    wanted = {
        name
        for name, _ in network.named_parameters()
        if name.startswith(("features.7.", "classifier."))
    }
    assert any(name.endswith("layer_scale") for name in wanted)
    assert {name for name, _ in suffix.named_parameters()} == wanted


@pytest.mark.parametrize(
    ("train_from", "moving"),
    [("head", ("fc.",)), ("conv5", ("fc.", "conv5.")), ("pixels", ("",))],
)
def test_training_moves_the_suffix_and_nothing_before_it(
    train_from: str, moving: tuple[str, ...]
) -> None:
    network = build("shufflenet_v2_x0_5")
    images = pixels(12, 32)
    values: Any = images
    if train_from != "pixels":
        prefix = backbone.prefix(backbone.trace(network), [train_from])
        with torch.inference_mode():
            values = prefix(backbone.normalize(torch.from_numpy(images)))[0].numpy()
    candidate = Candidate(
        freeze_backbone=train_from == "head",
        train_from=train_from,
        learning_rate=None if train_from == "head" else 0.01,
        weight_decay=0.01,
    )
    rows = FeatureRows(values, np.arange(12) % 3, np.arange(12))
    before = state(network)
    suffix = trainable_suffix(network, candidate, rows)
    settings = FitSettings(
        architecture="shufflenet_v2_x0_5",
        num_epochs=1,
        batch_size=6,
        seed=1,
        precision="float32",
    )
    fit(suffix, rows, None, Recipe(candidate, settings), lambda share: None)
    after = state(network)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith(moving)}
    assert any("running_mean" in name for name in moved) == (train_from != "head")


def test_values_that_cannot_be_cut_are_refused_with_a_way_out() -> None:
    traced = backbone.trace(build("shufflenet_v2_x0_5"))
    with pytest.raises(UserError, match=r"stage2\.1\.branch2.* 2 values cross.*stage around it"):
        backbone.suffix(traced, "stage2.1.branch2")


@pytest.mark.parametrize("cut", ["layer5", "layer", "layer4.9", ""])
def test_an_unknown_stage_is_refused_with_those_there_are(cut: str) -> None:
    traced = backbone.trace(build("resnet18"))
    for part in (backbone.suffix, lambda graph, name: backbone.prefix(graph, [name])):
        with pytest.raises(UserError, match=f"train_from: {cut}: .*no such stage") as caught:
            part(traced, cut)
        assert all(name in str(caught.value) for name in ("conv1", "layer1", "layer4", "fc"))


def test_an_unknown_architecture_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"model\.architecture.*'resnet19'.*resnet18"):
        backbone.build_network("resnet19", 3, seed=0)


def test_the_architectures_are_torchvisions_classification_networks() -> None:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    assert sorted(ARCHITECTURES) == sorted(known)


def test_initial_weights_follow_from_the_seed() -> None:
    first, same, other = (state(backbone.build_network(SMALL, 3, seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["classifier.1.weight"], other["classifier.1.weight"])


# Weights


def saved(path: Path, weights: Any, form: str) -> Path:
    if form == "safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form == "torch")
    return path


@pytest.mark.parametrize("form", ["safetensors", "torch", "torch before 1.6"])
def test_weights_are_taken_everywhere_but_in_the_classifier(tmp_path: Path, form: str) -> None:
    """Of another number of classes, as published ones are; the file's name does not tell."""
    source = state(build("shufflenet_v2_x0_5", num_classes=1000, seed=1))
    path = saved(tmp_path / "backbone", source, form)
    found = state(backbone.pretrained_network("shufflenet_v2_x0_5", path, 3, seed=2))
    fresh = state(backbone.build_network("shufflenet_v2_x0_5", 3, seed=2))
    for name, tensor in found.items():
        if name.startswith("fc."):
            assert torch.equal(tensor, fresh[name]), name
        elif not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, source[name]), name
    assert found["fc.weight"].shape == (3, 1024)


def test_weights_of_as_many_classes_do_not_bring_their_classifier(tmp_path: Path) -> None:
    source = state(build(SMALL, seed=1))
    path = saved(tmp_path / "backbone", source, "safetensors")
    found = state(backbone.pretrained_network(SMALL, path, 3, seed=2))
    assert torch.equal(found["features.0.weight"], source["features.0.weight"])
    assert not torch.equal(found["classifier.1.weight"], source["classifier.1.weight"])


def test_weights_of_a_network_with_constants_of_its_own_are_taken(tmp_path: Path) -> None:
    """MaxViT makes tensors in its forward pass, which are no weights."""
    source = state(backbone.build_network("maxvit_t", 3, seed=1))
    path = saved(tmp_path / "backbone", source, "safetensors")
    found = state(backbone.pretrained_network("maxvit_t", path, 3, seed=2))
    assert torch.equal(found["stem.0.0.weight"], source["stem.0.0.weight"])


class Malicious:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["torch", "torch before 1.6"])
def test_code_in_weights_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    trap = tmp_path / "executed"
    weights = {**state(build(SMALL)), "evil": Malicious(trap)}
    path = saved(tmp_path / "weights.pth", weights, form)
    with pytest.raises(UserError, match=r"model\.weights: the file cannot be read") as caught:
        backbone.pretrained_network(SMALL, path, 3, seed=0)
    assert not trap.exists()
    # torch's own message tells how to run it.
    assert "weights_only" not in str(caught.value)
    torch.load(path, weights_only=False)
    assert trap.exists(), "the file was harmless, and this test could not fail"


@pytest.mark.parametrize("form", ["safetensors", "torch", "torch before 1.6"])
def test_truncated_weights_are_refused(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path / "weights", state(build(SMALL)), form)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"model\.weights: the file cannot be read: \w.*\. It has"):
        backbone.pretrained_network(SMALL, path, 3, seed=0)


@pytest.mark.parametrize("content", [b"", b"abc", b"<!DOCTYPE html>" * 9, bytes(100)])
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.weights: the file cannot be read: \w.*\. It has"):
        backbone.pretrained_network(SMALL, tmp_path / "weights", 3, seed=0)


def named(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


OTHERS = {"epoch": 3, "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {0: {"step": 1}}}}


@pytest.mark.parametrize(
    ("wrap", "source"),
    [
        (lambda w: w, ""),
        (lambda w: {**w, "epoch": 3}, ""),
        (lambda w: named(w, "module."), "names without `module.`"),
        (lambda w: named(w, "_orig_mod."), "names without `_orig_mod.`"),
        (lambda w: {"model": w, **OTHERS}, "`model`"),
        (lambda w: {"model_state_dict": named(w, "module._orig_mod.")}, "`model_state_dict`"),
        (
            lambda w: {"state_dict": named(w, "model."), "hparams": {}},
            "`state_dict`, names without",
        ),
        (lambda w: {"checkpoint": {"net": w}}, "`checkpoint.net`"),
        (lambda w: {"model": _other(w), "model_ema": named(w, "module.")}, "`model_ema`"),
        (lambda w: {"state_dict": _other(w), "state_dict_ema": w}, "`state_dict_ema`"),
        (
            lambda w: {"state_dict": {**named(_other(w), "net."), **named(w, "ema.net.")}},
            "ema.net.",
        ),
        (lambda w: {"ema": named(w, "module."), "model": _other(w), **OTHERS}, "`ema`"),
        (lambda w: {"model": w, "best_model": copy.deepcopy(w)}, "`model`"),
        (lambda w: named(w, "a.b."), "names without `a.b.`"),
    ],
)
def test_weights_are_found_in_a_checkpoint(
    tmp_path: Path,
    wrap: Callable[[dict[str, Tensor]], dict[str, Any]],
    source: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    weights = state(build(SMALL, seed=1))
    path = saved(tmp_path / "weights", wrap(weights), "torch")
    found = state(backbone.pretrained_network(SMALL, path, 3, seed=2))
    assert torch.equal(found["features.0.weight"], weights["features.0.weight"])
    assert torch.equal(found["features.12.expand3x3.bias"], weights["features.12.expand3x3.bias"])
    said = [message for message in caplog.messages if message.startswith("model.weights: ")]
    assert len(said) == bool(source)
    assert source in "".join(said)


def _other(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor + 1 for name, tensor in weights.items()}


def test_two_sets_of_weights_in_one_file_are_refused_with_their_names(tmp_path: Path) -> None:
    weights = state(build(SMALL))
    both = {**named(weights, "student."), **named(_other(weights), "teacher.")}
    path = saved(tmp_path / "weights", both, "safetensors")
    with pytest.raises(UserError, match=r"several sets of weights .*`student\.`.*`teacher\.`"):
        backbone.pretrained_network(SMALL, path, 3, seed=0)


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], 7])
def test_a_file_without_tensors_is_no_state_dict(tmp_path: Path, content: object) -> None:
    path = saved(tmp_path / "weights", content, "torch")
    with pytest.raises(UserError, match=r"model\.weights: the file is not a state dict"):
        backbone.pretrained_network(SMALL, path, 3, seed=0)


def test_a_checkpoint_with_other_classes_names_them_and_is_not_loaded(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights", {"model": state(build(SMALL)), "path": tmp_path}, "torch")
    with pytest.raises(UserError, match=r"more than tensors and their names \(pathlib\.\w*Path"):
        backbone.pretrained_network(SMALL, path, 3, seed=0)


def test_wrapped_weights_that_do_not_fit_are_named_without_the_prefix(tmp_path: Path) -> None:
    weights = state(build(SMALL))
    weights["features.3.squeeze.bias"] = torch.zeros(5)
    path = saved(tmp_path / "weights", {"model": named(weights, "module.")}, "torch")
    with pytest.raises(UserError, match=r"\(`model`, names without `module\.`\).* 1 of 50 .*\[5\]"):
        backbone.pretrained_network(SMALL, path, 3, seed=0)


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    weights = state(build(SMALL))
    del weights["features.0.weight"]
    weights["features.3.squeeze.bias"] = torch.zeros(5)
    path = saved(tmp_path / "weights", weights, "safetensors")
    with pytest.raises(UserError) as caught:
        backbone.pretrained_network(SMALL, path, 3, seed=0)
    message = str(caught.value)
    # Its 26 layers have a weight and a bias each; two of these are the head's.
    assert f"the file does not fit {SMALL}: 2 of 50 tensors" in message
    assert "features.0.weight: missing, not [64, 3, 3, 3]" in message
    assert "features.3.squeeze.bias: [5], not [16]" in message
    assert "model.weights" in message and "model.architecture" in message


# The network as a file


@pytest.mark.parametrize("architecture", [SMALL, "shufflenet_v2_x0_5"])
def test_a_saved_network_predicts_as_before(tmp_path: Path, architecture: str) -> None:
    network = build(architecture)
    loaded = backbone.Network(save(tmp_path / "model", network, architecture))
    images = pixels(4, 33)
    with torch.inference_mode():
        wanted = network(backbone.normalize(torch.from_numpy(images))).softmax(dim=1).numpy()
    found = loaded.predict(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert loaded.classes == ("a", "b", "ü")
    assert (loaded.architecture, loaded.image_size) == (architecture, 33)
    assert loaded.candidate == {"name": "head lr=1", "train_from": "head"}


def test_a_network_is_saved_in_eval_mode_whatever_it_was_in(tmp_path: Path) -> None:
    network = build("shufflenet_v2_x0_5")
    loaded = backbone.Network(save(tmp_path / "model", network.train(), "shufflenet_v2_x0_5"))
    images = pixels(4, 33)
    together, alone = loaded.predict(images), loaded.predict(images[:1])
    np.testing.assert_allclose(together[:1], alone, atol=1e-6)


def test_the_network_file_is_safetensors_with_json(tmp_path: Path) -> None:
    path = save(tmp_path / "model", build(SMALL))
    with safetensors.safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["crossfold"])
        assert set(file.keys()) == set(build(SMALL).state_dict())
    assert about == {
        "architecture": SMALL,
        "classes": ["a", "b", "ü"],
        "image_size": 33,
        "candidate": {"name": "head lr=1", "train_from": "head"},
        "precision": "float32",
        "temperature": 1.0,
    }


def test_probabilities_have_the_files_temperature_and_old_files_have_none(tmp_path: Path) -> None:
    network = build(SMALL)
    about: dict[str, Any] = {"architecture": SMALL, "classes": ["a", "b", "ü"]}
    about |= {"image_size": 33, "candidate": {}}
    images = pixels(4, 33)
    with torch.inference_mode():
        logits = network(backbone.normalize(torch.from_numpy(images)))
    for temperature, known in ((1.0, about), (2.5, {**about, "temperature": 2.5})):
        path = tmp_path / "model"
        metadata = {"crossfold": json.dumps(known)}
        safetensors.torch.save_file(network.state_dict(), path, metadata=metadata)
        wanted = (logits / temperature).softmax(dim=1).numpy()
        np.testing.assert_allclose(backbone.Network(path).predict(images), wanted, atol=1e-6)


def test_imagenet_weights_that_cannot_be_fetched_say_why(tmp_path: Path) -> None:
    """In a process of its own, whose proxy is a port where nothing listens."""
    program = (
        "from pathlib import Path; from crossfold.network.backbone import fetch_imagenet_weights\n"
        "from crossfold.errors import UserError\n"
        "try: fetch_imagenet_weights(Path('models'))\n"
        "except UserError as error: print(error)"
    )
    nowhere = dict.fromkeys(("https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, **nowhere, "TORCH_HOME": str(tmp_path / "torch"), "no_proxy": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot be fetched from https://" in done.stdout
    assert "needs the internet" in done.stdout and "model.weights" in done.stdout
    assert not (tmp_path / "models").exists()
