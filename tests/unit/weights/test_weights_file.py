import argparse
import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from crossfold.errors import UserError
from crossfold.network import backbone
from crossfold.weights.pretrained_network import pretrained_network
from tests.unit.networks import SMALL, build, state


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
    found = state(pretrained_network("shufflenet_v2_x0_5", path, 3, seed=2))
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
    found = state(pretrained_network(SMALL, path, 3, seed=2))
    assert torch.equal(found["features.0.weight"], source["features.0.weight"])
    assert not torch.equal(found["classifier.1.weight"], source["classifier.1.weight"])


def test_weights_of_a_network_with_constants_of_its_own_are_taken(tmp_path: Path) -> None:
    """MaxViT makes tensors in its forward pass, which are no weights."""
    source = state(backbone.build_network("maxvit_t", 3, seed=1))
    path = saved(tmp_path / "backbone", source, "safetensors")
    found = state(pretrained_network("maxvit_t", path, 3, seed=2))
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
    with pytest.raises(UserError, match=r"model\.weights: ") as caught:
        pretrained_network(SMALL, path, 3, seed=0)
    assert not trap.exists()
    # torch's own message tells how to run it.
    assert "weights_only" not in str(caught.value)
    torch.load(path, weights_only=False)
    assert trap.exists(), "the file was harmless, and this test could not fail"


@pytest.mark.parametrize("form", ["safetensors", "torch", "torch before 1.6"])
def test_truncated_weights_are_refused(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path / "weights", state(build(SMALL)), form)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"model\.weights: .*torch\.save\("):
        pretrained_network(SMALL, path, 3, seed=0)


@pytest.mark.parametrize("content", [b"", b"abc", b"<!DOCTYPE html>" * 9, bytes(100)])
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.weights: .*torch\.save\("):
        pretrained_network(SMALL, tmp_path / "weights", 3, seed=0)


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
    wrap: Callable[[dict[str, Tensor]], object],
    source: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    weights = state(build(SMALL, seed=1))
    path = saved(tmp_path / "weights", wrap(weights), "torch")
    found = state(pretrained_network(SMALL, path, 3, seed=2))
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
    with pytest.raises(UserError, match=r"model\.weights: .*`student\.`.*`teacher\.`"):
        pretrained_network(SMALL, path, 3, seed=0)


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], 7])
def test_a_file_without_tensors_is_no_state_dict(tmp_path: Path, content: object) -> None:
    path = saved(tmp_path / "weights", content, "torch")
    with pytest.raises(UserError, match=r"model\.weights: .*state dict"):
        pretrained_network(SMALL, path, 3, seed=0)


def test_a_checkpoint_with_other_classes_names_them_and_is_not_loaded(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights", {"model": state(build(SMALL)), "path": tmp_path}, "torch")
    with pytest.raises(UserError, match=r"model\.weights: .*\(pathlib\.\w*Path"):
        pretrained_network(SMALL, path, 3, seed=0)


def test_wrapped_weights_that_do_not_fit_are_named_without_the_prefix(tmp_path: Path) -> None:
    weights = state(build(SMALL))
    weights["features.3.squeeze.bias"] = torch.zeros(5)
    path = saved(tmp_path / "weights", {"model": named(weights, "module.")}, "torch")
    with pytest.raises(UserError, match=r"\(`model`, names without `module\.`\).* 1 of 50 .*\[5\]"):
        pretrained_network(SMALL, path, 3, seed=0)


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    weights = state(build(SMALL))
    del weights["features.0.weight"]
    weights["features.3.squeeze.bias"] = torch.zeros(5)
    path = saved(tmp_path / "weights", weights, "safetensors")
    with pytest.raises(UserError) as caught:
        pretrained_network(SMALL, path, 3, seed=0)
    message = str(caught.value)
    # Its 26 layers have a weight and a bias each; two of these are the head's.
    assert SMALL in message and "2 of 50 tensors" in message
    assert "features.0.weight: missing, not [64, 3, 3, 3]" in message
    assert "features.3.squeeze.bias: [5], not [16]" in message
    assert "model.weights" in message and "model.architecture" in message
