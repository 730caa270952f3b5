import json
from pathlib import Path

import pytest
from filelock import FileLock

from crossfold.errors import UserError
from crossfold.runners.local.old_runs import clean_runs
from crossfold.runners.local.run_folders import FAILED, FINISHED, INTERRUPTED, RUNNING, Run

SIZE = 100_000


class Home:
    """A folder `runs` as runs leave it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "runs"
        self.store = [self.folder / "mlflow.db", self.folder / "mlartifacts" / "models" / "m-1"]
        for path in self.store:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"precious")

    def run(self, number: int, status: str, **steps: Path) -> Run:
        run = Run(f"run-{number}", self.folder / f"run-{number}", "abc", float(number), status)
        run.folder.mkdir()
        (run.folder / "fetch_data.log").write_text("said")
        for title, folder in steps.items():
            run.step_done(title, folder)
        run.save()
        return run

    def step(self, number: int, name: str, *, cached: bool = True) -> Path:
        """Make the outputs of a step of a run, and the cache's entry that refers to them."""
        folder = self.folder / "pipeline" / f"crossfold-{number}" / "loop" / name
        folder.mkdir(parents=True)
        for file in ("step.json", "executor_output.json", "metrics"):
            (folder / file).write_text("{}")
        (folder / "model").write_bytes(bytes(SIZE))
        if cached:
            place = folder.relative_to(self.folder)
            entry = {
                "model": {"__kfp_artifact__": True, "uri": f"{place}/model"},
                "metrics": {"__kfp_artifact__": True, "uri": f"{place}/metrics"},
                "count": 3,
            }
            self.entry(number, name).parent.mkdir(exist_ok=True)
            self.entry(number, name).write_text(json.dumps(entry))
        return folder

    def entry(self, number: int, name: str) -> Path:
        return self.folder / "cache" / f"{number}{name}.json"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_old_runs_go_and_the_last_ones_stay(home: Home) -> None:
    steps = [home.step(n, "train") for n in range(4)]
    runs = [home.run(n, FINISHED, train=steps[n]) for n in range(4)]
    said = clean_runs(home.root, keep=2)
    assert [run.folder.exists() for run in runs] == [False, False, True, True]
    assert [step.exists() for step in steps] == [False, False, True, True]
    kept = [home.entry(n, "train").exists() for n in range(4)]
    assert kept == [False, False, True, True]
    assert not (home.folder / "pipeline" / "crossfold-0").exists()
    assert (steps[3] / "model").stat().st_size == SIZE
    assert all(path.read_bytes() == b"precious" for path in home.store)
    assert said == "0.2 MB freed, 2 runs kept"


def test_what_a_kept_run_took_from_the_cache_stays(home: Home) -> None:
    first, unused = home.step(0, "extract"), home.step(0, "train")
    last = home.step(1, "train")
    home.run(0, FINISHED, extract=first, train=unused)
    home.run(1, FINISHED, extract=first, train=last)
    clean_runs(home.root, keep=1)
    assert first.exists() and last.exists() and not unused.exists()
    assert home.entry(0, "extract").exists() and not home.entry(0, "train").exists()
    assert not (home.folder / "run-0").exists()


@pytest.mark.parametrize("status", [RUNNING, FAILED, INTERRUPTED])
def test_the_unfinished_run_at_the_end_can_still_be_continued(home: Home, status: str) -> None:
    steps = [home.step(n, "train") for n in range(3)]
    home.run(0, status, train=steps[0])
    home.run(1, FINISHED, train=steps[1])
    home.run(2, status, train=steps[2])
    half_done = home.step(2, "final", cached=False)
    clean_runs(home.root, keep=1)
    assert [step.exists() for step in steps] == [False, True, True]
    assert [(home.folder / f"run-{n}").exists() for n in range(3)] == [False, True, True]
    assert home.entry(2, "train").exists()
    assert not half_done.exists(), "no run and no cache entry refers to it"


def test_cleaning_again_frees_nothing(home: Home) -> None:
    for n in range(3):
        home.run(n, FINISHED, train=home.step(n, "train"))
    clean_runs(home.root, keep=1)
    before = sorted(home.folder.rglob("*"))
    assert clean_runs(home.root, keep=1) == "0.0 MB freed, 1 runs kept"
    assert sorted(home.folder.rglob("*")) == before


def test_a_run_that_goes_on_is_not_disturbed(home: Home) -> None:
    step = home.step(0, "train")
    home.run(0, RUNNING)
    with FileLock(home.folder / "lock"), pytest.raises(UserError, match="another run"):
        clean_runs(home.root, keep=1)
    assert step.exists()
    clean_runs(home.root, keep=1)
    assert not step.exists(), "the lock alone protected it"


def test_without_runs_there_is_nothing_to_clean(tmp_path: Path) -> None:
    assert clean_runs(tmp_path, keep=1) == "there is nothing to clean"
    assert not list(tmp_path.iterdir())
