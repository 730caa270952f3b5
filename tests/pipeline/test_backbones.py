"""A run with one backbone, and then with a second one beside it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file

from crossfold.data.samples.digits import RANDOM_WEIGHTS
from crossfold.network import NETWORK_FILE, processor
from crossfold.network.backbone import build_network
from crossfold.network.trained_network import Network
from crossfold.records import Leaderboard

from .projects import STEPS, Project, titles

SMALL, SMALL_WEIGHTS = "shufflenet_v2_x0_5", "small.safetensors"
BACKBONES = [  # the new one first: the order of the list does not matter
    {"name": "small", "architecture": SMALL, "weights": SMALL_WEIGHTS, "image_size": 32},
    {"name": "resnet18", "architecture": "resnet18", "weights": RANDOM_WEIGHTS, "image_size": 32},
]
HEAD = {"freeze_backbone": True, "weight_decay": 0.1}
VIEWS = {"views": ["mirrored"], "test_time": True}


def write_settings(project: Project, **changes: object) -> None:
    path = project.root / "params.yaml"
    settings = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(settings | changes, sort_keys=False))


@pytest.fixture(scope="module")
def project(new_project: Callable[[], Project]) -> Project:
    project = new_project()
    model = yaml.safe_load((project.root / "params.yaml").read_text())["model"]
    write_settings(
        project, model=model | {"precision": "auto"}, candidates=[HEAD], augmentation=VIEWS
    )
    project.call("crossfold", "run")
    return project


@pytest.fixture(scope="module")
def output(project: Project) -> str:
    """A run of the same candidate on two backbones, whose weights are added to models/."""
    network = build_network(SMALL, 10, seed=0)
    save_file(network.state_dict(), project.root / "models" / SMALL_WEIGHTS)
    project.call("dvc", "add", "models")
    model = {"precision": "auto", "backbones": BACKBONES}
    candidate = {**HEAD, "weight_decay": 0.2}  # other weights, and so another version
    write_settings(project, model=model, candidates=[candidate], choice="smallest")
    return project.call("crossfold", "run")


@pytest.fixture(scope="module")
def leaderboard(project: Project, output: str) -> Leaderboard:
    return Leaderboard.read(Path(project.runs()[-1]["steps"]["aggregate_cv"]) / "leaderboard")


@pytest.mark.slow
def test_another_backbone_recomputes_nothing_of_the_first(output: str) -> None:
    assert {*titles(output, "↺")} == {*STEPS[:3]}
    added = ["fetch_weights small", "extract_features small", "join_features"]
    assert sorted(titles(output, "✓")) == sorted([*added, *STEPS[3:]])


@pytest.mark.slow
def test_the_leaderboard_has_each_backbone_with_its_cost(
    output: str, leaderboard: Leaderboard
) -> None:
    small, large = leaderboard.candidates
    assert (small.candidate.name, large.candidate.name) == (
        "small head wd=0.2",
        "resnet18 head wd=0.2",
    )
    assert (small.backbone.architecture, large.backbone.architecture) == (SMALL, "resnet18")
    assert small.backbone.num_parameters < 0.4e6 < 11e6 < large.backbone.num_parameters
    assert small.backbone.num_bytes < large.backbone.num_bytes
    assert small.backbone.milliseconds and large.backbone.milliseconds
    assert all(cost in output for cost in ("0.35M", "11.18M"))


@pytest.mark.slow
def test_the_smallest_is_chosen_only_if_it_is_nearly_as_good(leaderboard: Leaderboard) -> None:
    small, large = leaderboard.candidates
    error = large.std["macro_f1"] / len(large.folds) ** 0.5
    near = small.mean["macro_f1"] >= large.mean["macro_f1"] - error
    assert leaderboard.choice == "smallest"
    assert leaderboard.chosen is (small if near else large)


@pytest.mark.slow
def test_int8_is_compared_with_float32_wherever_results_are_shown(
    project: Project, output: str, leaderboard: Leaderboard
) -> None:
    for entry in leaderboard.candidates:
        chosen = entry.backbone.precision
        assert chosen and (chosen.comparison is not None) is processor.has_int8()
        if chosen.comparison:  # gate.margin is 0.02
            within = chosen.comparison.interval[0] >= -0.02
            assert (chosen.precision == "int8") is within
    chosen = leaderboard.chosen.backbone.precision
    assert chosen and f"Computed in {chosen.precision}: {chosen.reason}" in output
    version = project.client().get_model_version("crossfold", "2")
    assert version.tags["precision"] == chosen.precision
    assert chosen.reason in str(version.description).replace("\\", "")  # Markdown escapes _
    model = Path(project.runs()[-1]["steps"]["train_final"]) / "model"
    assert Network(model / NETWORK_FILE).precision == chosen.precision
    page = (project.root / "reports/report.html").read_text()
    table = page[page.index('id="precision"') :].split("</table>")[0]
    assert all(entry.backbone.name in table for entry in leaderboard.candidates)


@pytest.mark.slow
def test_the_version_and_mlflow_name_the_backbone(
    project: Project, leaderboard: Leaderboard
) -> None:
    chosen = leaderboard.chosen
    version = project.client().get_model_version("crossfold", "2")
    assert version.tags["backbone"] == chosen.backbone.name
    assert version.tags["architecture"] == chosen.backbone.architecture
    assert len(json.loads(version.tags["settings"])["model"]["backbones"]) == 2
    assert all(name in str(version.description) for name in ("small", "resnet18", "## Backbones"))
    steps = project.steps(project.parent(project.runs()[-1]["id"]))
    params = [run.data.params for run in project.nested(steps["train_fold 0"])]
    assert {(given["backbone"], given["architecture"]) for given in params} == {
        ("small", SMALL),
        ("resnet18", "resnet18"),
    }
    page = (project.root / "reports/report.html").read_text()
    table = page[page.index('id="backbones"') :].split("</table>")[0]
    assert SMALL in table and "11.18" in table


@pytest.mark.slow
def test_the_model_averages_over_the_views_that_it_was_trained_on(
    project: Project, output: str
) -> None:
    model = Path(project.runs()[-1]["steps"]["train_final"]) / "model"
    assert Network(model / NETWORK_FILE).views == ("mirrored",)
    version = project.client().get_model_version("crossfold", "2")
    assert version.tags["averaged_views"] == "mirrored"
    assert output.count("augmentation.") == 2 * 2, "stated before the run, and after it"
