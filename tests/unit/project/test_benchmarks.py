"""The benchmark's arithmetic, and that the naive loop and the pipeline are the same computation.

Nothing here is timed.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks import adapter, figures, goals, naive, report, scale, startup
from benchmarks.adapter import FLOAT32
from benchmarks.dataset import CLASSES, column, write_images, write_table
from benchmarks.machine import others_cores
from benchmarks.outcome import Outcome, Scored, num_different, require_close, require_same
from benchmarks.paths import in_every_round, percentile
from benchmarks.rounds import Round, collect
from benchmarks.workload import Passes, Workload, naive_passes, pipeline_passes
from crossfold.data.sample import random_resnet18

TINY = Workload(
    images_per_class=12, image_size=32, num_folds=3, num_epochs=3, batch_size=8, learning_rate=0.01
)
FULL_FLAGS = ("avx512f", "amx_bf16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of 64×48 in `photos`, their table, and weights."""
    folder = tmp_path_factory.mktemp("benchmark")
    write_images(folder / "photos", TINY.images_per_class * len(CLASSES), (64, 48))
    write_table(folder / "photos", folder / "examples", TINY)
    save_file(dict(random_resnet18()), folder / "weights")
    return folder


def tiny_data(folder: Path) -> naive.Data:
    table = folder / "examples"
    labels, folds = (column(table, name).astype(np.int64) for name in ("label", "fold"))
    paths = [folder / "photos" / path for path in column(table, "path")]
    photos = naive.Photos(paths, labels, TINY.image_size)
    return naive.Data(photos, labels, folds, len(CLASSES))


def test_naive_loop_and_pipeline_give_the_same(folder: Path, tmp_path: Path) -> None:
    data = tiny_data(folder)
    backbone = naive.Backbone(folder / "weights")
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}

    expected = naive.run(backbone, data, TINY)
    found = adapter.run(folder / "examples", folder / "weights", TINY, 1, FLOAT32, tmp_path)

    require_same(expected, found.outcome, "naive loop and pipeline")
    num_test = int((data.folds == naive.NO_FOLD).sum())
    assert len(expected.test.predictions) == num_test
    assert len(set(expected.test.predictions)) > 1
    passes = naive_passes(len(data.folds) - num_test, num_test, TINY)
    assert backbone.num_passes == passes.total
    # What model.train() on a frozen backbone would change: batch normalization's statistics.
    assert all(tensor.equal(before[name]) for name, tensor in backbone.state_dict().items())


def test_computing_each_image_once_gives_the_same(folder: Path) -> None:
    data = tiny_data(folder)
    backbone = naive.Backbone(folder / "weights")
    features = naive.all_features(backbone, data, TINY.batch_size)
    num_test = int((data.folds == naive.NO_FOLD).sum())
    assert backbone.num_passes == pipeline_passes(len(data.folds) - num_test, num_test)

    whole = naive.run(backbone, data, TINY)
    stored = replace(data, items=TensorDataset(features, torch.from_numpy(data.labels)))
    once = naive.run(nn.Identity(), stored, TINY)

    require_same(whole, once, "once")


def test_images_are_the_same_for_the_same_seed(folder: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "again", 8, (64, 48))
    for name in CLASSES:
        for path in (tmp_path / "again" / name).iterdir():
            assert path.read_bytes() == (folder / "photos" / name / path.name).read_bytes()


def test_passes_are_those_of_the_formula() -> None:
    workload = Workload()
    assert naive_passes(300, 100, workload).total == 5 * 300 * (5 + 1) + 100
    assert naive_passes(300, 100, workload) == Passes(5 * 300 * 5, 1500, 100)
    assert pipeline_passes(300, 100) == 400


def test_a_slice_is_extrapolated_by_its_passes() -> None:
    seconds = figures.naive_seconds(Passes(600, 150, 50), {"training": 20.0, "validation": 40.0})
    assert seconds == 600 / 20 + 200 / 40


def round_with(others: float) -> Round:
    return Round({"others": others}, others, 1.0)


def test_disturbed_rounds_are_dropped_and_repeated() -> None:
    rounds = iter(map(round_with, (0.1, 0.9, 0.3, 0.0, 0.2)))
    said: list[str] = []
    kept, dropped = collect(lambda: next(rounds), 3, 0.2, said.append)
    assert [done.others for done in kept] == [0.1, 0.0, 0.2]
    assert [done.others for done in dropped] == [0.9, 0.3]
    assert ["dropped" in line for line in said] == [False, True, True, False, False]


def test_it_goes_on_with_fewer_rounds_and_says_so() -> None:
    rounds = iter(map(round_with, [0.0] + 5 * [0.9]))
    said: list[str] = []
    kept, dropped = collect(lambda: next(rounds), 2, 0.2, said.append)
    assert (len(kept), len(dropped)) == (1, 5)
    assert said[-1] == "only 1 of 2 rounds were undisturbed"


def test_it_refuses_when_every_round_was_disturbed() -> None:
    with pytest.raises(SystemExit, match="in none of 3 rounds"):
        collect(lambda: round_with(0.5), 1, 0.2, lambda line: None)


def test_others_are_what_is_busy_beside_oneself() -> None:
    assert others_cores(busy=15.0, own=12.0, seconds=10.0) == pytest.approx(0.3)
    assert others_cores(busy=11.9, own=12.0, seconds=10.0) == 0


def results() -> dict[str, Any]:
    """A round as the paths measure it: naive 10 images a second, everything else faster."""
    ours = {"num_train": 300, "num_test": 100}
    return {
        "peak": {"float32": 200.0, "bfloat16": 800.0},
        "naive": {"training": 10.0, "validation": 10.0, "decoding_seconds": 0.01},
        "naive_files": {"training": 5.0, "validation": 5.0, "decoding_seconds": 0.01},
        "plain": {"seconds": 40.0},
        "ours_float32": {
            **ours,
            "seconds": 20.0,
            "evaluating_more_seconds": 4.0,
            "parts": {"extract": 15.0},
        },
        "engine_float32": {
            "gflops": 180.0,
            "images_per_second": 50.0,
            "build_seconds": 0.1,
            "first_batch_seconds": 1.0,
        },
        "one_image": {"p50": 12.0, "p99": 20.0, "first": 30.0},
        "fine_tuning_float32": {"gflops": 150.0, "images_per_second": 14.0},
        "fine_tuning_bfloat16": {"gflops": 420.0, "images_per_second": 40.0},
    }


def test_figures_of_a_round() -> None:
    found = figures.of_round(results(), threads=2)
    assert found["seconds_naive"] == pytest.approx(910 + 2)
    assert found["seconds_naive_files"] == pytest.approx(1820)
    assert found["counting"] == pytest.approx(912 / 40)
    assert found["engine_ratio_float32"] == pytest.approx(2)
    assert found["ratio_float32"] == pytest.approx(912 / 20)
    assert found["ratio_whole_float32"] == pytest.approx(38)
    assert found["ratio_files_float32"] == pytest.approx(91)
    assert found["photos_float32"] == pytest.approx(20)
    assert found["share_float32"] == pytest.approx(0.9)
    assert found["fine_tuning_share"] == pytest.approx(0.75)
    assert found["fine_tuning_gain"] == pytest.approx(2.8)
    assert "ratio_bfloat16" not in found


def test_median_is_of_the_ratios_of_each_round() -> None:
    over = figures.over_rounds([{"ratio": 30.0}, {"ratio": 50.0}, {"ratio": 31.0}])
    assert figures.median_and_minimum(over["ratio"]) == (31.0, 30.0)


def test_percentiles() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99)) == (50, 99)


def test_bfloat16_is_timed_only_where_there_is_any() -> None:
    assert not [name for name in in_every_round(bfloat16=False) if "bfloat16" in name]
    assert "fine_tuning_bfloat16" in in_every_round(bfloat16=True)


def test_a_ratio_far_below_its_goal_is_a_failure() -> None:
    about = {"flags": FULL_FLAGS}
    measured = {"ratio_float32": [20.0, 22.0], "ratio_bfloat16": [60.0], "share_float32": [0.5]}
    (failure,) = report.failures({"environment": about, "figures": measured})
    assert failure.endswith("50 % is less than 60% of the goal of 90 %")


def test_what_the_processor_cannot_reach_is_no_failure() -> None:
    about = {"flags": ["avx512f"]}
    assert not report.failures({"environment": about, "figures": {"ratio_bfloat16": [1.0]}})


def test_seconds_never_fail() -> None:
    slow = {"environment": {"flags": FULL_FLAGS}, "startup": {"startup": 60.0, "overhead": 60.0}}
    assert not report.failures(slow)


def test_every_goal_has_a_row() -> None:
    about = {"flags": ["avx512f"], "date": "2026-01-01", "processor": "p", "threads": 2}
    page = report.render({"scale": {**about, "sizes": [], "image_size": 32, "memory": 1.1}})
    for goal in goals.GOALS:
        assert f"| {goal.measure} |" in page
    assert "| ≤ 1.5 GB | 1.1 GB | yes |" in page
    assert "not measured | no: this processor has no matrix units" in page


def scored(predictions: list[int], loss: float = 0.5) -> Scored:
    return Scored(predictions, accuracy=0.9, macro_f1=0.9, loss=loss)


def outcome(predictions: list[int], loss: float = 0.5) -> Outcome:
    return Outcome([scored([0, 1]), scored([1, 1])], scored(predictions, loss))


def test_outcomes_are_compared() -> None:
    one = outcome(600 * [1])
    assert Outcome.from_json(one.to_json()) == one
    require_same(one, outcome(600 * [1], loss=0.50001), "same")
    with pytest.raises(SystemExit, match=r"float32: test: the losses are 0\.5"):
        require_same(one, outcome(600 * [1], loss=0.501), "float32")
    with pytest.raises(SystemExit, match="1 of 604 predictions differ"):
        require_same(one, outcome([0, *599 * [1]]), "float32")
    two, three = outcome([0, 0, *598 * [1]]), outcome([0, 0, 0, *597 * [1]])
    assert num_different(one, two) == (2, 604)
    require_close(one, two, "bfloat16")
    with pytest.raises(SystemExit, match="3 of 604"):
        require_close(one, three, "bfloat16")


def test_steps_side_by_side_count_once() -> None:
    assert startup.union([(0.0, 2.0), (5.0, 6.0), (1.0, 3.0), (1.5, 2.5)]) == 4.0


@pytest.mark.parametrize("step", startup.STEPS)
def test_imports_of_a_step_are_those_of_its_body(step: str) -> None:
    imports = startup.imports_of(step)
    assert "from crossfold" in imports
    assert "kfp" not in imports


def size(num_images: int, seconds: float, peak: float) -> dict[str, Any]:
    steps = {"extract_features": {"seconds": seconds, "peak": peak, "anonymous": peak}}
    return {"num_images": num_images, "steps": steps}


def test_growth_with_the_number_of_images() -> None:
    small = size(10_000, 10.0, 1e9)
    assert not scale.problems([small, size(100_000, 149.0, 1.4e9)])
    (slower,) = scale.problems([small, size(100_000, 151.0, 1.4e9)])
    assert "1.51 times as long" in slower
    (larger,) = scale.problems([small, size(100_000, 100.0, 1.6e9)])
    assert "took 1.60 GB at 100,000 images" in larger
