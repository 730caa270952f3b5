"""The benchmark's arithmetic, and that the naive loop and the pipeline are the same computation.

Nothing here is timed.
"""

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from benchmarks import naive, report
from benchmarks.dataset import CANDIDATE, CLASSES, FIT, Workload, Workspace, write_photos
from benchmarks.naive import Outcome, Split
from benchmarks.report import GOALS, Results
from benchmarks.scale import Cost, Scale, Size
from benchmarks.timings import pipeline_steps, predict, run_each_image_once
from crossfold.data.splits import SplitSettings

TINY = Workload(
    images_per_class=12,
    image_size=32,
    split=SplitSettings(num_folds=3, test_fraction=0.25),
    fit=FIT.model_copy(update={"num_epochs": 3, "batch_size": 8}),
    candidate=CANDIDATE.model_copy(update={"learning_rate": 0.01}),
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("benchmark"), TINY)
    workspace.write_files((64, 48))
    workspace.write_examples()
    return workspace


class Counting(nn.Module):
    """A backbone that counts the images that go through."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.network, self.num_passes = naive.frozen_backbone(weights), 0

    def forward(self, images: Tensor) -> Tensor:
        self.num_passes += len(images)
        features: Tensor = self.network(images)
        return features


@pytest.fixture(scope="module")
def backbone(workspace: Workspace) -> Counting:
    return Counting(workspace.weights)


@pytest.fixture(scope="module")
def expected(workspace: Workspace, backbone: Counting) -> Outcome:
    """The predictions of the whole naive loop."""
    return naive.run(backbone, naive.open_data(workspace), TINY)


def test_naive_loop_takes_all_passes_and_leaves_its_backbone(
    workspace: Workspace, backbone: Counting, expected: Outcome
) -> None:
    assert backbone.num_passes == sum(naive.num_passes(workspace))
    assert len(set(expected[-1].probabilities.argmax(axis=1))) > 1
    # model.train() on a frozen backbone would change batch normalization's statistics.
    fresh = naive.frozen_backbone(workspace.weights).state_dict()
    left = backbone.network.state_dict()
    assert all(tensor.equal(fresh[name]) for name, tensor in left.items())


@pytest.mark.slow
def test_pipeline_gives_the_same(workspace: Workspace, expected: Outcome) -> None:
    for step in pipeline_steps(workspace, workspace.folder).values():
        step()
    predicted = predict(workspace, workspace.folder)
    assert naive.count_different(expected, predicted, "float32") == 0


def test_computing_each_image_once_gives_the_same(workspace: Workspace, expected: Outcome) -> None:
    network = Counting(workspace.weights)
    once = run_each_image_once(network, workspace)
    assert network.num_passes == sum(workspace.num_images())
    assert naive.count_different(expected, once, "float32") == 0


def test_images_are_always_the_same(workspace: Workspace, tmp_path: Path) -> None:
    write_photos(tmp_path / "again", 8, (64, 48))
    for name in CLASSES:
        for path in (tmp_path / "again" / name).iterdir():
            assert path.read_bytes() == (workspace.photos / name / path.name).read_bytes()


def test_passes_are_those_of_the_formula(workspace: Workspace) -> None:
    assert workspace.num_images() == (36, 12)
    assert naive.num_passes(workspace) == (3 * 36 * 3, 3 * 36 + 12)


def outcome(predictions: list[int], surest: float = 0.75) -> Outcome:
    probabilities = np.array([[1 - surest, surest], [surest, 1 - surest]], np.float32)
    return [Split(np.zeros(len(predictions), np.int64), probabilities[predictions])]


def test_float32_refuses_any_difference() -> None:
    expected = outcome(600 * [1])
    assert naive.count_different(expected, outcome(600 * [1], surest=0.750001), "float32") == 0
    with pytest.raises(SystemExit, match="1 of 600"):
        naive.count_different(expected, outcome([0, *599 * [1]]), "float32")
    with pytest.raises(SystemExit, match="loss"):
        naive.count_different(expected, outcome(600 * [1], surest=0.751), "float32")


def test_bfloat16_allows_one_difference_in_300() -> None:
    expected = outcome(600 * [1])
    assert naive.count_different(expected, outcome([0, 0, *598 * [1]]), "bfloat16") == 2
    with pytest.raises(SystemExit, match="3 of 600"):
        naive.count_different(expected, outcome([0, 0, 0, *597 * [1]]), "bfloat16")


@pytest.fixture
def committed() -> Results:
    return Results.model_validate_json((report.DOCS / "performance.json").read_text())


def test_page_is_that_of_the_figures(committed: Results) -> None:
    page = (report.DOCS / "performance.md").read_text()
    _, _, rest = page.partition(report.BEGIN)
    assert rest.partition(report.END)[0].strip() == report.render(committed).strip()


def test_ratios_are_taken_within_a_round(committed: Results) -> None:
    rows = {row.label: row for row in report.rows(committed)}
    ratios = rows["against the naive loop, float32"].values
    for taken, ratio in zip(committed.comparison.rounds, ratios, strict=True):
        assert ratio == taken.naive_seconds / taken.pipeline["float32"].seconds


def with_naive_seconds(committed: Results, factor: float) -> Results:
    comparison = committed.comparison
    rounds = tuple(
        taken.model_copy(update={"naive_seconds": factor * taken.naive_seconds})
        for taken in comparison.rounds
    )
    return committed.model_copy(
        update={"comparison": comparison.model_copy(update={"rounds": rounds})}
    )


def test_a_ratio_far_below_its_goal_is_a_failure(committed: Results) -> None:
    assert not report.failures(with_naive_seconds(committed, 2))
    failed = report.failures(with_naive_seconds(committed, 0.5))
    assert [line.split(",")[1].split()[0] for line in failed] == ["float32", "bfloat16"]


def test_bfloat16_has_no_goal_without_matrix_units(committed: Results) -> None:
    comparison = committed.comparison
    without = comparison.machine.model_copy(update={"flags": ("avx512_bf16",)})
    results = committed.model_copy(
        update={"comparison": comparison.model_copy(update={"machine": without})}
    )
    assert GOALS.keys() <= {row.label for row in report.rows(committed)}
    assert not [
        row for row in report.rows(results) if "bfloat16" in row.label and row.label in GOALS
    ]


def scale(seconds: float, gb: float) -> Scale:
    sizes = tuple(
        Size(num_images=num_images, steps={"train_final": cost})
        for num_images, cost in (
            (10_000, Cost(seconds=10, gb=1)),
            (100_000, Cost(seconds=seconds, gb=gb)),
        )
    )
    machine = {"date": "", "processor": "", "flags": (), "threads": 2, "versions": {}}
    return Scale.model_validate({"machine": machine, "sizes": sizes})


def test_growth_with_the_number_of_images() -> None:
    assert not scale(149, 1.4).problems
    (slower,) = scale(151, 1.4).problems
    assert "1.51" in slower
    (larger,) = scale(100, 1.6).problems
    assert "1.6 GB" in larger
