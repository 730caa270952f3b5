"""Refusing a model before a run; test_features.py has the fit of a network."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from crossfold.data.samples.digits import RANDOM_WEIGHTS
from crossfold.errors import UserError
from crossfold.network import backbone
from crossfold.records import CheckedNetwork
from crossfold.runners import checked_networks, pre_run_checks
from crossfold.runners.pre_run_checks import check_model, recall_preprocessing
from crossfold.settings import Backbone, Settings, load_settings
from crossfold.versioning import dvc

SOURCE = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose weights are a DataParallel's, in a folder below models/."""
    root = tmp_path_factory.mktemp("project")
    (root / ".dvc").mkdir()
    shutil.copy(SOURCE / ".dvc/config", root / ".dvc")
    (root / "models/own").mkdir(parents=True)
    network = backbone.build_network("shufflenet_v2_x0_5", 3, seed=0)
    weights = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"model": weights}, root / "models/own/w.pth")
    (root / "models" / RANDOM_WEIGHTS).write_bytes((root / "models/own/w.pth").read_bytes())
    dvc.add(root / "models")
    out = {"md5": f"{0:032}.dir", "hash": "md5", "path": "data"}
    (root / "data.dvc").write_text(json.dumps({"outs": [out]}))
    return root


@pytest.fixture
def settings() -> Callable[..., Settings]:
    common = (
        "model.architecture=shufflenet_v2_x0_5",
        "candidates=[{train_from: conv5, learning_rate: 0.1, weight_decay: 0}]",
    )

    def load(*changes: str) -> Settings:
        return load_settings(SOURCE / "params.yaml", [*common, *changes])

    return load


def test_an_unknown_file_of_weights_is_refused(
    project: Path, settings: Callable[..., Settings]
) -> None:
    with pytest.raises(UserError, match=r"no file 'w\.pth'; did you mean own/w\.pth\?"):
        check_model(project, settings("model.weights=w.pth"))


def test_a_stage_that_the_network_lacks_is_refused(
    project: Path, settings: Callable[..., Settings]
) -> None:
    with pytest.raises(UserError, match="did you mean conv5"):
        check_model(project, settings("model.weights=own/w.pth", "candidates.0.train_from=conv6"))


@pytest.mark.slow
def test_notes_state_what_views_cost(project: Path, settings: Callable[..., Settings]) -> None:
    views = "augmentation={views: [mirrored, cropped], test_time: true}"
    *_, extraction, prediction = check_model(
        project, settings("model.weights=own/w.pth", views)
    ).notes
    assert extraction.startswith("augmentation.views: ") and " 3 times " in extraction
    assert prediction.startswith("augmentation.test_time: ") and " 3 times " in prediction
    pixels = "candidates=[{train_from: pixels, learning_rate: 0.1, weight_decay: 0}]"
    found = check_model(project, settings("model.weights=own/w.pth", pixels, views)).notes
    assert [note for note in found if note.startswith("augmentation")] == [prediction]


@pytest.mark.slow
def test_notes_tell_where_the_weights_lie_and_that_they_are_the_digits(
    project: Path, settings: Callable[..., Settings]
) -> None:
    found, warning = check_model(project, settings(f"model.weights={RANDOM_WEIGHTS}")).notes
    assert found == "model.weights: taken from `model`, names without `module.`"
    assert "`crossfold weights fetch efficientnet_lite0`" in warning


@pytest.mark.slow
def test_the_samples_weights_beside_others_are_a_comparison(
    project: Path, settings: Callable[..., Settings]
) -> None:
    backbones = ", ".join(
        f"{{name: {name}, architecture: shufflenet_v2_x0_5, weights: {weights}}}"
        for name, weights in (("random", RANDOM_WEIGHTS), ("own", "own/w.pth"))
    )
    several = settings(f"model={{precision: float32, backbones: [{backbones}]}}")
    found = check_model(project, several)
    assert [note.split(": ")[0] for note in found.notes] == ["backbone random", "backbone own"]
    alone = check_model(project, settings("model.weights=own/w.pth"))
    assert found.num_bytes_stored == 2 * alone.num_bytes_stored


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the networks that were built for a check."""
    built: list[str] = []
    check = pre_run_checks._check_network

    def counted(backbone: Backbone, weights: Path | None, cuts: list[str]) -> CheckedNetwork:
        built.append(backbone.name)
        return check(backbone, weights, cuts)

    monkeypatch.setattr(pre_run_checks, "_check_network", counted)
    return built


def test_a_network_is_checked_once(
    project: Path, tmp_path: Path, settings: Callable[..., Settings], checks: list[str]
) -> None:
    root = Path(shutil.copytree(project, tmp_path / "project"))
    chosen = settings("model.weights=own/w.pth")
    (backbone,) = chosen.backbones
    assert recall_preprocessing(root, chosen, backbone) is None
    first = check_model(root, chosen)
    assert check_model(root, chosen) == first
    assert recall_preprocessing(root, chosen, backbone) == first.preprocessing[backbone.name]
    assert len(checks) == 1


def test_a_refused_network_is_checked_again(
    project: Path, tmp_path: Path, settings: Callable[..., Settings], checks: list[str]
) -> None:
    root = Path(shutil.copytree(project, tmp_path / "project"))
    refused = settings("model.weights=own/w.pth", "candidates.0.train_from=conv6")
    for _ in range(2):
        with pytest.raises(UserError, match="did you mean conv5"):
            check_model(root, refused)
    assert len(checks) == 2


@pytest.mark.parametrize(
    "change",
    ["architecture", "image_size", "cuts", "weights", "no weights", "code", "python", "library"],
)
def test_whatever_a_check_depends_on_is_in_its_entrys_name(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Backbone(name="one", architecture="resnet18", weights="w.pth")
    name = checked_networks.entry(tmp_path, backbone, ["head"], ["a", "b"])
    assert checked_networks.entry(tmp_path, backbone, ["head"], ["a", "b"]) == name
    cuts, weights = ["head"], ["a", "b"]
    if change == "architecture":
        backbone = backbone.model_copy(update={"architecture": "resnet34"})
    elif change == "image_size":
        backbone = backbone.model_copy(update={"image_size": 96})
    elif change == "cuts":
        cuts = ["head", "layer4"]
    elif change == "weights":
        weights = ["a", "c"]
    elif change == "no weights":
        weights = []
    elif change == "code":
        monkeypatch.setattr(checked_networks, "code_name", lambda role: f"{role}:other")
    elif change == "python":
        monkeypatch.setattr("platform.python_version", lambda: "3.99")
    else:
        monkeypatch.setattr(checked_networks, "version", lambda library: f"{library} 99")
    assert checked_networks.entry(tmp_path, backbone, cuts, weights) != name
