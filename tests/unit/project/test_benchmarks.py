"""The benchmark's arithmetic, and that the naive loop and the pipeline are the same computation.

Nothing here is timed.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from benchmarks import __main__, naive, report
from benchmarks.dataset import CANDIDATE, CLASSES, FIT, Workload, Workspace, write_photos
from benchmarks.machine import Machine
from benchmarks.naive import Outcome, Split
from benchmarks.report import Results, Row
from benchmarks.scale import Cost, Scale, Size
from benchmarks.steps import outcome, pipeline_steps
from benchmarks.timings import EPOCHS, AtPrecision, Comparison, Round, run_each_image_once
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
    for step in pipeline_steps(workspace, workspace.folder, "float32").values():
        step()
    predicted = outcome(workspace, workspace.folder)
    assert naive.disagreement(expected, predicted, "float32") is None
    for page in ("data.html", "report.html"):
        assert "<h1" in (workspace.folder / page).read_text()


def test_computing_each_image_once_gives_the_same(workspace: Workspace, expected: Outcome) -> None:
    network = Counting(workspace.weights)
    once = run_each_image_once(network, workspace)
    assert network.num_passes == sum(workspace.num_images())
    assert naive.disagreement(expected, once, "float32") is None


def test_images_are_always_the_same(workspace: Workspace, tmp_path: Path) -> None:
    write_photos(tmp_path / "again", 8, (64, 48))
    for name in CLASSES:
        for path in (tmp_path / "again" / name).iterdir():
            assert path.read_bytes() == (workspace.photos / name / path.name).read_bytes()


def test_passes_are_those_of_the_formula(workspace: Workspace) -> None:
    assert workspace.num_images() == (36, 12)
    assert naive.num_passes(workspace) == (3 * 36 * 3, 3 * 36 + 12)


def predicted(predictions: list[int], surest: float = 0.75) -> Outcome:
    probabilities = np.array([[1 - surest, surest], [surest, 1 - surest]], np.float32)
    return [Split(np.zeros(len(predictions), np.int64), probabilities[predictions])]


def test_an_unknown_part_is_refused_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "small", "_compare"])
    with pytest.raises(SystemExit, match="2"):
        __main__.main()
    said = capsys.readouterr().err
    assert "invalid choice: '_compare'" in said and "'photographs'" in said


def test_float32_allows_no_difference() -> None:
    expected = predicted(600 * [1])
    assert not naive.disagreement(expected, predicted(600 * [1], surest=0.750001), "float32")
    different = naive.disagreement(expected, predicted([0, *599 * [1]]), "float32")
    assert different and "1 of 600" in different
    losses = naive.disagreement(expected, predicted(600 * [1], surest=0.751), "float32")
    assert losses and "loss" in losses


def test_bfloat16_allows_one_difference_in_300() -> None:
    expected = predicted(600 * [1])
    assert not naive.disagreement(expected, predicted([0, 0, *598 * [1]]), "bfloat16")
    different = naive.disagreement(expected, predicted([0, 0, 0, *597 * [1]]), "bfloat16")
    assert different and "3 of 600" in different


def test_page_is_that_of_the_figures() -> None:
    page = (report.DOCS / "performance.md").read_text()
    _, _, rest = page.partition(report.BEGIN)
    assert rest.partition(report.END)[0].strip() == report.render(report.read()).strip()


def machine(*flags: str) -> Machine:
    return Machine(date="", processor="", flags=flags, threads=2, versions={})


def small(naive_seconds: float, *flags: str, missing: Sequence[str] = ()) -> Results:
    """Two rounds of a pipeline that takes 10 s and then 20 s, beside the naive loop.

    `missing` failed in the second.
    """

    def taken(seconds: float) -> Round:
        at = AtPrecision(
            steps={"write_examples": seconds},
            seconds=dict.fromkeys(EPOCHS, seconds),
            network_ms=seconds,
            one_image_ms=seconds,
            num_different=0,
        )
        return Round(
            others=0,
            naive_seconds={epochs: epochs * naive_seconds for epochs in EPOCHS},
            pipeline={"float32": at, "int8": at},
        )

    second = taken(20)
    for precision in missing:
        second.pipeline.pop(precision)
    return Results(
        small=Comparison(
            machine=machine(*flags),
            num_images=(1200, 400),
            num_folds=5,
            file_mb=1,
            table_mb=1,
            once_seconds=1,
            rounds=(taken(10), second),
            problems=(),
        )
    )


def row(results: Results, label: str) -> Row:
    return next(row for row in report.rows(results) if row.label == label)


FLOAT32 = "whole pipeline against the naive loop, float32, E = 5"
INT8 = "whole pipeline against the naive loop, int8, E = 20"


def test_ratios_are_taken_within_a_round() -> None:
    assert row(small(100), FLOAT32).values.tolist() == [50, 25]
    assert row(small(100), INT8).values.tolist() == [200, 100]


def test_a_precision_that_failed_in_a_round_has_no_row() -> None:
    results = small(100, missing=["int8"])
    assert row(results, FLOAT32)
    assert not [row for row in report.rows(results) if "int8" in row.label]


@pytest.mark.parametrize("missing", [["float32"], ["float32", "int8"]])
def test_the_page_shows_the_figures_that_there_are(missing: list[str]) -> None:
    page = report.render(small(100, missing=missing))
    assert "| naive loop |" in page
    assert ("whole pipeline, int8" in page) == ("int8" not in missing)
    assert "float32" not in page


def test_figures_are_kept_if_the_page_cannot_be_written(tmp_path: Path) -> None:
    shutil.copy(report.DOCS / "performance.json", tmp_path)
    with pytest.raises(FileNotFoundError):
        report.update(small(123), tmp_path)
    assert report.read(tmp_path).small == small(123).small


def test_counting_alone_is_the_ratio_of_the_passes() -> None:
    compared = small(1).small
    assert compared and [compared.counting(epochs) for epochs in EPOCHS] == [22.75, 90.25, 225.25]


def test_a_ratio_far_below_its_goal_is_a_failure() -> None:
    assert row(small(50), FLOAT32).median < 30
    assert not [line for line in report.failures(small(50)) if "float32, E" in line]
    assert [line for line in report.failures(small(40)) if "float32, E" in line]


def test_goals_of_int8_depend_on_matrix_units() -> None:
    assert row(small(1), INT8).goal == 250
    assert row(small(1, "amx_int8"), INT8).goal == 300


def size(number: int, seconds: float, gb: float) -> Size:
    cost = Cost(seconds=seconds, gb=gb, written_mb=0)
    return Size(num_images=number, photos_mb=0, steps={"train_final": cost})


def scale(seconds: float, gb: float) -> Scale:
    sizes = size(10_000, 10, 1), size(100_000, seconds, gb)
    return Scale(machine=machine(), sizes=sizes)


LARGEST = "peak memory of every step, 24-megapixel photos, 20 threads"


@pytest.mark.parametrize(("gb", "reached"), [(1.5, "yes"), (1.6, report.NOT_REACHED)])
def test_too_much_memory_for_the_largest_photos_is_a_failure(gb: float, reached: str) -> None:
    results = Results(largest=size(48, 1, gb))
    assert row(results, LARGEST).cells() == [LARGEST, f"{gb} GB", "≤ 1.5 GB", reached]
    assert bool(report.failures(results)) == (reached != "yes")


def test_bytes_for_1000_photos_of_4_mb_are_the_test_files_and_the_squares() -> None:
    compared = small(1).small
    assert compared
    # A quarter are test files, 0.2 MB an image; the other 0.1 MB are squares.
    large = compared.model_copy(update={"file_mb": 0.8, "table_mb": 0.3})
    found = row(Results(large=large), "bytes that leave fetch_data for 1,000 photos of 4 MB")
    assert found.values == pytest.approx([1.1])
    assert found.goal == 1


def test_growth_with_the_number_of_images() -> None:
    assert not scale(149, 1.4).problems
    (slower,) = scale(151, 1.4).problems
    assert "1.51" in slower
    (larger,) = scale(100, 1.6).problems
    assert "1.6 GB" in larger
